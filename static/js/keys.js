/* Presses the button that names the key: <button aria-keyshortcuts="A">. The letter counts, not its place, so
   that the buttons tell the truth on every keyboard; on one without these letters the place counts. */

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.isComposing) return;
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (event.target.isContentEditable || event.target.closest?.("input, textarea, select, dialog")) return;
  const letter = letterOf(event);
  // Disabled while a vote is under way.
  const button = letter && document.querySelector(`button[aria-keyshortcuts="${letter}"]:not(:disabled)`);
  if (!button) return;
  event.preventDefault();
  button.click();
});

function letterOf(event) {
  if (/^[a-z]$/i.test(event.key)) return event.key.toUpperCase();
  const isForeign = /^\p{Letter}$/u.test(event.key);
  return isForeign ? /^Key([A-Z])$/.exec(event.code)?.[1] : undefined;
}
