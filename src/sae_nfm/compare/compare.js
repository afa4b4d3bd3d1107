// A click on a heading sorts the rows by the cells' data-sort, a second one the other way round.
document.querySelectorAll("th button").forEach(button => button.addEventListener("click", () => {
  const th = button.parentNode, body = th.closest("table").tBodies[0];
  const sign = th.ariaSort === "ascending" ? -1 : 1, key = row => row.cells[th.cellIndex].dataset.sort;
  th.parentNode.querySelectorAll("th").forEach(other => other.ariaSort = null);
  th.ariaSort = sign > 0 ? "ascending" : "descending";
  const order = (a, b) => a === "" || b === "" ? (a === "") - (b === "") :
    sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  [...body.rows].sort((a, b) => order(key(a), key(b))).forEach(row => body.append(row));
}));

// On a narrow screen a figure is as wide as the page, and after a tap as wide as its letters need.
document.querySelectorAll("figure img").forEach(
  image => image.addEventListener("click", () => image.classList.toggle("large")));

// Rows stay that fit every word: one that they contain, or a column compared to a value, as in layer>=3.
const bare = words => words.toLowerCase().replace(/\s/g, "");
const compare = { "=": (a, b) => a == b, "<": (a, b) => a < b, ">": (a, b) => a > b,
  "<=": (a, b) => a <= b, ">=": (a, b) => a >= b };
document.querySelectorAll(".filter input").forEach(input => input.addEventListener("input", () => {
  const table = document.getElementById(input.getAttribute("aria-controls")), rows = [...table.tBodies[0].rows];
  const headings = [...table.tHead.rows[0].cells].map(cell => bare(cell.textContent));
  const column = name => headings.findIndex(heading => heading === name || heading.endsWith("." + name));
  const fits = (row, word) => {
    const [, name, sign, value] = word.match(/^(.+?)(<=|>=|=|<|>)(.+)$/) || [];
    if (!value || column(name) < 0) return row.textContent.toLowerCase().includes(word);
    const own = row.cells[column(name)].dataset.sort.toLowerCase(), numbers = own !== "" && !isNaN(own) && !isNaN(value);
    return (own !== "" || sign === "=") && compare[sign](numbers ? +own : own, numbers ? +value : value);
  };
  const words = input.value.toLowerCase().split(/\s+/).filter(word => word);
  rows.forEach(row => row.hidden = !words.every(word => fits(row, word)));
  input.parentNode.querySelector("output").value = rows.filter(row => !row.hidden).length + " of " + rows.length;
}));
