"use strict";
// Without a secure context there is no clipboard; the key can still be marked and copied by hand.
document.getElementById("copy").addEventListener("click", async () => {
  const key = document.getElementById("key");
  const said = document.getElementById("copied");
  try {
    await navigator.clipboard.writeText(key.textContent);
    said.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(key);
    said.textContent = "marked: press Ctrl+C";
  }
});
