{
  contrast() {
    const number = (text) => text.match(/[\d.]+/g).map(Number);
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const light = (colour) => colour.slice(0, 3).reduce((sum, v, i) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][i], 0);
    const over = (top, under) => top.slice(0, 3).map((v, i) => v * (top[3] ?? 1) + under[i] * (1 - (top[3] ?? 1)));
    const behind = (element) => {
      const layers = [];
      for (let e = element; e; e = e.parentElement) layers.unshift(number(getComputedStyle(e).backgroundColor));
      return layers.reduce((under, top) => over(top, under), [255, 255, 255]);
    };
    const found = [];
    let checked = 0;
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const text = walk.currentNode.textContent.trim();
      const e = walk.currentNode.parentElement;
      if (!text || !e.checkVisibility({ visibilityProperty: true })) continue;
      if (e.closest(".unseen, script, style, noscript")) continue;
      const back = behind(e);
      const front = over(number(getComputedStyle(e).color), back);
      const [low, high] = [light(front), light(back)].sort((a, b) => a - b);
      const ratio = (high + 0.05) / (low + 0.05);
      checked++;
      if (ratio < 4.5) found.push([ratio.toFixed(2), e.className || e.tagName, text.slice(0, 30)]);
    }
    return { found, checked };
  },

  nameless() {
    const asked = "button, a, input, textarea, [role=group], [role=region], [role=img], [role=progressbar], dialog";
    const text = (id) => document.getElementById(id)?.textContent ?? "";
    return [...document.querySelectorAll(asked)]
      .filter((e) => e.checkVisibility())
      .filter((e) => {
        const by = (e.getAttribute("aria-labelledby") ?? "").split(" ").map(text).join("");
        const labels = [...(e.labels ?? [])].map((label) => label.textContent).join("");
        const inside = e.matches("button, a") ? e.textContent : "";
        return !(by || labels || e.getAttribute("aria-label") || inside).trim();
      })
      .map((e) => e.outerHTML.slice(0, 120));
  },

  focused() {
    const e = document.activeElement;
    const style = getComputedStyle(e);
    const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    return [e.id || e.getAttribute("aria-label") || e.tagName, seen, e.matches("button, a, textarea, article, section")];
  },
}
