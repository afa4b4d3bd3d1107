"use strict";
const all = (query, within = document) => [...within.querySelectorAll(query)];
const readout = document.getElementById("readout"), search = document.getElementById("search");

// Search: cards that hold the words; a link into the page brings a hidden one back.
const texts = new Map(all("article").map(card => [card, card.textContent.toLowerCase()]));
function find() {
  const sought = search.value.trim().toLowerCase();
  texts.forEach((text, card) => card.hidden = !text.includes(sought));
  all("section").forEach(section => {
    const cards = all("article", section), seen = cards.filter(card => !card.hidden).length;
    section.querySelector(".found").textContent = sought ? `${seen} of ${cards.length}` : "";
  });
}
search.addEventListener("input", find);
addEventListener("hashchange", () => {
  const card = document.querySelector(`article[id="${CSS.escape(location.hash.slice(1))}"]`);
  if (card?.hidden) { search.value = ""; find(); card.scrollIntoView(); }
});

// Sort: "-share" is by data-share, the largest first; "" is the order in which the page came.
all("section").forEach(section => {
  const cards = all("article", section);
  section.querySelector("select").addEventListener("change", event => {
    const [sign, key] = [event.target.value[0] === "-" ? -1 : 1, event.target.value.slice(1)];
    const sorted = key ? cards.toSorted((a, b) => sign * (a.dataset[key] - b.dataset[key])) : cards;
    section.append(...sorted);
  });
});

// Passages: every token has its KL with the SAE, with the linear part, and with the NFM.
const tokens = all(".passage b").map(node => ({ node, kl: node.dataset.kl.split(" ").map(Number) }));
const values = {
  interactions: ([, linear, nfm]) => linear - nfm,
  nfm: ([sae, , nfm]) => sae - nfm,
  kl_sae: ([sae]) => -sae,
  kl_nfm: ([, , nfm]) => -nfm,
};
function colour(by) {
  const found = tokens.map(({ kl }) => values[by](kl));
  const sizes = found.map(Math.abs).sort((a, b) => a - b);
  const fullest = sizes[Math.floor(0.98 * (sizes.length - 1))] || 1;
  tokens.forEach(({ node }, n) => {
    node.className = found[n] > 0 ? "lowers" : "raises";
    node.style.setProperty("--a", (0.6 * Math.min(1, Math.abs(found[n]) / fullest)).toFixed(2));
  });
  all(".switch button").forEach(button => button.ariaPressed = button.dataset.by === by);
  document.getElementById("fullest").textContent = `fullest from ${fullest.toPrecision(2)} nats`;
}
all(".switch button").forEach(button => button.addEventListener("click", () => colour(button.dataset.by)));
colour("interactions");

// Numbers of the token that is pointed at, or moved to with the arrow keys.
function point(node) {
  all(".pointed").forEach(other => other.classList.remove("pointed"));
  node?.classList.add("pointed");
  const [sae, linear, nfm] = node?.dataset.kl?.split(" ") ?? [];
  readout.textContent = !node ? "" : `“${node.textContent}” ` + (node.title ||
    `KL ${sae} with the SAE, ${linear} with the linear part, ${nfm} with the NFM, nats`);
}
["pointerover", "click"].forEach(kind => addEventListener(kind, event => point(event.target.closest?.(".run b"))));
addEventListener("keydown", event => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], passage = document.activeElement.closest(".passage");
  if (!step || !passage) return;
  const inside = all("b", passage), at = inside.findIndex(node => node.classList.contains("pointed"));
  const next = inside[Math.min(Math.max(at + step, 0), inside.length - 1)];
  point(next);
  next.scrollIntoView({ block: "nearest" });
  event.preventDefault();
});
