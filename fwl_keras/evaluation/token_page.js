// A token's numbers are in `data-t`: ids, then both probabilities, where it was predicted.
(function () {
  const tip = document.getElementById("tip");
  const labels = JSON.parse(document.body.dataset.labels);
  let here = null;

  function percent(text) {
    const p = Number(text) * 100;
    return (p >= 0.001 ? p.toPrecision(3).replace(/\.0+$/, "") : p.toExponential(1)) + " %";
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
