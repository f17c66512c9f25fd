"""Style and script of `token_page`, which are the same on every page."""

# Blue and orange: apart for every kind of colour-blindness. Every background keeps a contrast of
# at least 4.5 with the text on it, light and dark.
STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #16181d; --soft: #5b6270; --line: #d9dde3; --panel: #f6f7f9;
  --unscored: #d5d8dd; --bar-gain: #0072b2; --bar-loss: #d55e00; --strong: #000000;
  --g1: #e4f1fb; --g2: #c3e1f6; --g3: #94caee; --g4: #5eaee2; --g5: #3596d6;
  --l1: #fdebdd; --l2: #fbd5b6; --l3: #f6b683; --l4: #ee954f; --l5: #e07a26;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14161a; --ink: #e4e6ea; --soft: #9aa2af; --line: #333842; --panel: #1c1f25;
    --unscored: #3d424b; --bar-gain: #56b4e9; --bar-loss: #e69f00; --strong: #ffffff;
    --g1: #14273a; --g2: #153a5a; --g3: #14507f; --g4: #1263a1; --g5: #0f70ba;
    --l1: #33210f; --l2: #4f2f0d; --l3: #71400b; --l4: #904f08; --l5: #a85a05;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1.25rem 6rem; max-width: 76rem;
  background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 {
  font-size: 1.1rem; margin: 2.5rem 0 .3rem; padding-top: 1rem;
  border-top: 1px solid var(--line); overflow-wrap: anywhere;
}
p { margin: .3rem 0; max-width: 48rem; }
.soft, figcaption { color: var(--soft); }
.legend {
  position: sticky; top: 0; z-index: 1; margin: 1rem 0; padding: .5rem 0;
  background: var(--page); border-bottom: 1px solid var(--line);
  display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: center; font-size: .85rem;
}
.scale { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem .5rem; }
.scale ol { display: flex; flex-wrap: wrap; list-style: none; margin: 0; padding: 0; }
.scale li { min-width: 3.4rem; padding: .1rem .4rem; text-align: center; white-space: nowrap; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; min-width: 9rem; overflow-wrap: anywhere; }
thead th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); }
tfoot td { border-top: 1px solid var(--line); font-weight: 600; }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: .2em; }
figure { margin: .8rem 0; }
figure svg { display: block; width: 100%; height: 5rem; background: var(--panel); }
figcaption { font-size: .8rem; }
.text {
  margin: .8rem 0; padding: .8rem; border: 1px solid var(--line); border-radius: 4px;
  white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4;
  font: 13px/1.65 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
.text b { font-weight: inherit; border-radius: 2px; }
.text b:hover, .text b.here { outline: 2px solid var(--ink); outline-offset: -1px; }
.n::before { content: "\\21b5"; opacity: .55; }
.u { background: var(--unscored); }
.g1 { background: var(--g1); } .g2 { background: var(--g2); } .g3 { background: var(--g3); }
.g4 { background: var(--g4); color: var(--strong); }
.g5 { background: var(--g5); color: var(--strong); }
.l1 { background: var(--l1); } .l2 { background: var(--l2); } .l3 { background: var(--l3); }
.l4 { background: var(--l4); color: var(--strong); }
.l5 { background: var(--l5); color: var(--strong); }
.up { fill: var(--bar-gain); } .down { fill: var(--bar-loss); }
.zero { stroke: var(--soft); stroke-width: 1; vector-effect: non-scaling-stroke; }
#tip {
  position: fixed; z-index: 2; max-width: min(26rem, 94vw); padding: .5rem .7rem;
  background: var(--panel); color: var(--ink); border: 1px solid var(--soft); border-radius: 4px;
  box-shadow: 0 3px 14px rgb(0 0 0 / .3); font-size: .85rem; pointer-events: none;
}
#tip[hidden] { display: none; }
#tip code { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 1.05em; }
#tip table { font-size: inherit; }
#tip td { min-width: 0; padding: 0 .8rem 0 0; }
@media (max-width: 40rem) { .legend { position: static; } .scale li { min-width: 0; } }
@media print { .legend { position: static; } * { print-color-adjust: exact; } }
"""

# A token's numbers are in `data-t`: ids, then both probabilities, where it was predicted.
SCRIPT = """
(function () {
  const tip = document.getElementById("tip");
  const labels = JSON.parse(document.body.dataset.labels);
  let here = null;

  function percent(text) {
    const p = Number(text) * 100;
    return (p >= 0.001 ? p.toPrecision(3).replace(/\\.0+$/, "") : p.toExponential(1)) + " %";
  }
  function add(parent, name, text) {
    const child = document.createElement(name);
    if (text !== undefined) child.textContent = text;
    return parent.appendChild(child);
  }
  function show(token) {
    const [ids, p, q] = token.dataset.t.split(" ");
    tip.replaceChildren();
    add(tip, "code", JSON.stringify(token.textContent));
    add(tip, "span", (ids.includes("+") ? "  ids " : "  id ") + ids).className = "soft";
    if (p === undefined) {
      add(tip, "div", "not predicted: nothing stands before it");
    } else {
      const body = add(add(tip, "table"), "tbody");
      [p, q].forEach((value, i) => {
        const row = add(body, "tr");
        add(row, "td", labels[i]);
        add(row, "td", percent(value));
      });
      const gain = Math.log(Number(p) / Number(q));
      const times = Math.exp(Math.abs(gain));
      const word = gain < 0 ? "loss" : "gain";
      add(tip, "div", word + " " + Math.abs(gain).toFixed(2) + " nats: " +
        (times < 10 ? times.toFixed(2) : times.toPrecision(3)) + " times " +
        (gain < 0 ? "less probable" : "as probable"));
    }
    if (here) here.classList.remove("here");
    (here = token).classList.add("here");
    tip.hidden = false;
    const box = token.getClientRects()[0] || token.getBoundingClientRect();
    const left = Math.min(box.left, innerWidth - tip.offsetWidth - 8);
    const below = box.bottom + 6;
    const fits = below + tip.offsetHeight < innerHeight;
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = (fits ? below : Math.max(8, box.top - tip.offsetHeight - 6)) + "px";
  }
  function hide() {
    tip.hidden = true;
    if (here) here.classList.remove("here");
    here = null;
  }
  function follow(event) {
    const token = event.target.closest && event.target.closest(".text b");
    if (token) show(token); else hide();
  }
  document.addEventListener("mouseover", follow);
  document.addEventListener("click", follow);
  document.addEventListener("scroll", hide, { passive: true });
})();
"""
