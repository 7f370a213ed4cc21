"use strict";
// Rows of endpoints and patterns: moved by buttons that keep the numbers right, and new rows that can be probed.
(() => {
  const rowsOf = (list) => [...list.querySelectorAll(":scope > .form-group:not(.empty-form)")];
  const position = (row) => row.querySelector("input[name$='-position']");

  function renumber(list) {
    rowsOf(list).forEach((row, index) => {
      position(row).value = index;
    });
  }

  function move(button) {
    const row = button.closest(".form-group");
    const rows = rowsOf(row.parentElement);
    const there = rows.indexOf(row) + (button.dataset.move === "up" ? -1 : 1);
    if (there < 0 || there >= rows.length) {
      return;
    }
    rows[there][button.dataset.move === "up" ? "before" : "after"](row);
    renumber(row.parentElement);
    button.focus();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.row-move");
    if (button) {
      move(button);
    }
  });

  document.addEventListener("formset:added", (event) => {
    const row = event.target.closest(".form-group");
    const input = row && position(row);
    if (input) {
      // The last number and one: a new row is asked last.
      input.value = Math.max(-1, ...rowsOf(row.parentElement).filter((r) => r !== row).map((r) => Number(position(r).value))) + 1;
      htmx.process(row);
    }
  });
})();
