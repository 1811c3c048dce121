/* J and → show the next prompt, K and ← the one before: they follow the links that say so. */

const STEPS = { j: "next", ArrowRight: "next", k: "previous", ArrowLeft: "previous" };

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.isComposing) return;
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (event.target.closest?.("input, textarea, select, summary")) return;
  const step = STEPS[event.key] ?? STEPS[event.key.toLowerCase()];
  const link = step && document.querySelector(`[data-step="${step}"]`);
  if (!link) return;
  event.preventDefault();
  link.click();
});
