"use strict";
const key = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
};
const order = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b
  : typeof a === "number" ? -1
  : typeof b === "number" ? 1
  : a.localeCompare(b, undefined, { numeric: true });
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const sort = (head, column) => {
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => order(key(a, column), key(b, column)));
    body.append(...(down ? rows.reverse() : rows));
  };
  heads.forEach((head, column) => {
    head.setAttribute("aria-sort", "none");
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(head, column));
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(head, column); }
    });
  });
  if (body.rows.length > 12) {
    const input = document.createElement("input");
    input.className = "filter";
    input.type = "search";
    input.placeholder = "filter by name";
    input.setAttribute("aria-label", "filter the rows by name");
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase();
      for (const row of body.rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    });
    table.parentElement.before(input);
  }
}
for (const table of document.querySelectorAll("table.heat")) {
  const readout = document.createElement("p");
  readout.className = "readout";
  readout.setAttribute("aria-hidden", "true");
  table.parentElement.after(readout);
  table.addEventListener("pointerover", (event) => {
    const cell = event.target.closest("td[title]");
    if (cell) readout.textContent = cell.title;
  });
}
