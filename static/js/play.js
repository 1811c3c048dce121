/* Ctrl+Enter sends the question, once. */

document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.repeat || event.isComposing || !(event.ctrlKey || event.metaKey)) return;
  const form = event.target.closest?.("form");
  if (event.target.localName !== "textarea" || !form) return;
  event.preventDefault();
  form.requestSubmit();
});
