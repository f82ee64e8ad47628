"use strict";
(() => {
  const make = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  // -- tables: a head sorts, a field above filters ----------------------------------------------------------------

  const key = (row, place) => {
    const text = row.cells[place].textContent.trim();
    const number = parseFloat(text.replace(/,/g, ""));
    return /^[-+.\d]/.test(text) && !Number.isNaN(number) ? number : text;
  };
  const compare = (one, other) => {
    if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1; // numbers before words
    return one < other ? -1 : one > other ? 1 : 0;
  };
  const close = (table) => {
    table.querySelectorAll("tr.detail").forEach((row) => row.remove());
    table.querySelectorAll('tr[aria-expanded="true"]').forEach((row) => row.setAttribute("aria-expanded", "false"));
  };
  const sort = (table, head, place) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    close(table);
    table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row, order) => ({ row, order, key: key(row, place) }));
    rows.sort((a, b) => (down ? -1 : 1) * compare(a.key, b.key) || a.order - b.order);
    body.append(...rows.map(({ row }) => row));
  };
  const filter = (table, words) => {
    close(table);
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every((word) => text.includes(word));
    }
  };
  document.querySelectorAll("table[data-sortable]").forEach((table) => {
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      const button = make("button", head.textContent);
      button.type = "button";
      button.addEventListener("click", () => sort(table, head, place));
      head.replaceChildren(button);
    });
    const field = make("input");
    field.type = "search";
    field.placeholder = "filter: words that a row must have";
    field.setAttribute("aria-label", "filter the rows");
    field.addEventListener("input", () => filter(table, field.value));
    table.parentElement.before(field);
  });

  // -- a cell's row opens its curves and facts --------------------------------------------------------------------

  const data = JSON.parse(document.getElementById("cell-data").textContent);
  const draw = (metric, values) => {
    const [width, height, left, below] = [220, 120, 42, 18];
    const finite = values.filter((value) => value !== null);
    const [low, high] = [Math.min(...finite), Math.max(...finite)];
    const x = (place) => left + ((width - left - 6) * place) / Math.max(values.length - 1, 1);
    const y = (value) => 6 + ((height - below - 6) * (high - value)) / (high - low || 1);
    let path = "";
    values.forEach((value, place) => {
      if (value === null) return;
      const apart = place === 0 || values[place - 1] === null;
      path += `${apart ? "M" : "L"}${x(place).toFixed(1)} ${y(value).toFixed(1)}`;
    });
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const add = (name, attributes, text) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      Object.entries(attributes).forEach(([attribute, value]) => made.setAttribute(attribute, value));
      if (text !== undefined) made.textContent = text;
      svg.append(made);
    };
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${metric} over epochs`);
    for (const value of new Set([low, high])) {
      add("line", { class: "grid", x1: left, x2: width - 6, y1: y(value), y2: y(value) });
      add("text", { x: left - 4, y: y(value) + 3.5, "text-anchor": "end" }, String(Number(value.toPrecision(3))));
    }
    add("text", { x: left, y: height - 4 }, "1");
    add("text", { x: width - 6, y: height - 4, "text-anchor": "end" }, `${values.length} epochs`);
    add("path", { class: "median", d: finite.length === 1 ? `${path}h.1` : path });
    const figure = make("figure", undefined, "curve");
    figure.append(svg, make("figcaption", metric));
    return figure;
  };
  const detail = (cell, width) => {
    const row = make("tr", undefined, "detail");
    const box = make("td");
    box.colSpan = width;
    const curves = make("div", undefined, "curves");
    Object.entries(cell.curves).forEach(([metric, values]) => curves.append(draw(metric, values)));
    const facts = make("table", undefined, "facts");
    cell.facts.forEach(([name, value]) => {
      const line = make("tr");
      line.append(make("td", name), make("td", value));
      facts.append(line);
    });
    const files = make("p", "files: ", "small");
    cell.files.forEach((path, place) => {
      const link = make(cell.linked ? "a" : "code", path.split("/").pop());
      if (cell.linked) link.href = path;
      link.title = path;
      files.append(place ? " · " : "", link);
    });
    box.append(curves, facts, files);
    row.append(box);
    return row;
  };
  const toggle = (row) => {
    if (row.nextElementSibling && row.nextElementSibling.classList.contains("detail")) {
      row.nextElementSibling.remove();
      row.setAttribute("aria-expanded", "false");
    } else {
      row.after(detail(data[Number(row.dataset.cell)], row.cells.length));
      row.setAttribute("aria-expanded", "true");
    }
  };
  document.querySelectorAll("tr[data-cell]").forEach((row) => {
    row.tabIndex = 0;
    row.setAttribute("aria-expanded", "false");
    row.addEventListener("click", () => toggle(row));
    row.addEventListener("keydown", (event) => {
      if (event.key === "Enter") toggle(row);
    });
  });

  // -- a field of a figure leads to the rows of its cells ---------------------------------------------------------

  const show = (places) => {
    const rows = places.map((place) => document.querySelector(`tr[data-cell="${place}"]`));
    const table = rows[0].closest("table");
    const field = table.parentElement.previousElementSibling;
    if (field && field.value) {
      field.value = "";
      filter(table, "");
    }
    table.querySelectorAll("tr.chosen").forEach((row) => row.classList.remove("chosen"));
    rows.forEach((row) => row.classList.add("chosen"));
    const first = rows.find((row) => !row.classList.contains("missing")) || rows[0];
    if (first.getAttribute("aria-expanded") !== "true") toggle(first);
    first.scrollIntoView({ block: "center" });
    first.focus({ preventScroll: true });
  };
  document.querySelectorAll(".picture > a").forEach((area) => {
    area.addEventListener("click", (event) => {
      event.preventDefault();
      show(area.dataset.cells.split(" "));
    });
  });

  // -- a figure opens at its full size ----------------------------------------------------------------------------

  const zoom = document.getElementById("zoom");
  zoom.addEventListener("click", () => zoom.close());
  document.querySelectorAll(".picture > img").forEach((image) => {
    image.addEventListener("click", () => {
      zoom.firstElementChild.src = image.src;
      zoom.firstElementChild.alt = image.alt;
      zoom.showModal();
    });
  });
})();
