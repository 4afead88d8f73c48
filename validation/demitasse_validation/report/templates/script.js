(() => {
  const body = document.querySelector("#rows"), search = document.querySelector("#search"), order = document.querySelector("#order");
  if (!body) return;
  document.documentElement.classList.add("scripted");
  const rows = [...body.rows];
  const words = rows.map((row) => `${row.cells[1].textContent} ${row.cells[2].textContent}`.toLowerCase());
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    rows.forEach((row, place) => { row.hidden = !words[place].includes(wanted); });
  });
  order.addEventListener("change", () => {
    const sorted = order.value === "worst" ? [...rows].sort((a, b) => b.dataset.o - a.dataset.o) : rows;
    body.append(...sorted);
  });
})();
