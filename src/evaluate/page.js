// Shows the rows of one kind.
"use strict";
const buttons = document.querySelectorAll("[data-show]");
for (const button of buttons) {
  button.addEventListener("click", () => {
    const kind = button.dataset.show;
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    for (const row of document.querySelectorAll("details.row")) {
      row.classList.toggle("gone", kind !== "all" && !row.classList.contains(kind));
    }
  });
}
