// A grid of cells of equal size, of which only the visible ones exist.
//
// Browsers cannot show elements of hundreds of millions of pixels. Beyond LIMIT, the scroll bar
// covers a scaled range: moves by less than a screen are taken as they are, longer ones in scale.

const LIMIT = 8_000_000;
// How many rows are asked for at a time.
export const BLOCK = 100;
const KEPT_BLOCKS = 60;
const GAP = 10;

// The browser would go on loading the images of cells that are gone, before those of new ones.
function cancelImages(cell) {
  for (const image of cell.querySelectorAll("img")) image.removeAttribute("src");
}

export class Grid {
  // load(start, count) -> Promise of rows; fill(cell, row, index) draws one; open(index, row).
  constructor(element, {load, fill, open}) {
    this.element = element;
    this.load = load;
    this.fill = fill;
    this.open = open;
    this.space = document.createElement("div");
    this.space.className = "space";
    this.space.setAttribute("role", "presentation");
    element.append(this.space);
    this.cells = new Map();
    this.blocks = new Map();
    this.total = this.active = this.top = this.generation = 0;
    element.addEventListener("scroll", () => this.scrolled());
    element.addEventListener("keydown", (event) => this.key(event));
    this.space.addEventListener("click", (event) => {
      const cell = event.target.closest(".cell");
      if (cell) {
        this.setActive(Number(cell.dataset.index));
        this.openActive();
      }
    });
    // Also called once for the first size, which `reset` may have seen.
    new ResizeObserver(() => {
      if (element.clientWidth !== this.width || element.clientHeight !== this.height) this.layout();
    }).observe(element);
  }

  // Show another result, from its beginning; `rows` are its first block.
  reset(total, rows = []) {
    this.total = total;
    this.generation += 1;
    this.blocks = new Map(rows.length ? [[0, rows]] : []);
    this.top = 0;
    this.active = 0;
    this.element.scrollTop = 0;
    this.last = 0;
    this.clear();
    this.layout();
  }

  clear() {
    this.cells.forEach(cancelImages);
    this.space.replaceChildren();
    this.cells.clear();
  }

  layout() {
    const first = Math.floor(this.top / (this.rowHeight || 1)) * (this.columns || 1);
    this.width = this.element.clientWidth;
    const width = this.width - GAP;
    this.height = this.element.clientHeight;
    const narrow = width < 500 ? 104 : 150;
    this.columns = Math.max(1, Math.floor(width / (narrow + GAP)));
    this.cellWidth = Math.floor(width / this.columns) - GAP;
    this.rowHeight = this.cellWidth + 34 + GAP;
    this.full = Math.ceil(this.total / this.columns) * this.rowHeight + GAP;
    this.scrollHeight = Math.min(this.full, LIMIT);
    this.space.style.height = `${this.scrollHeight}px`;
    this.clear();
    this.scrollTo(Math.floor(first / this.columns) * this.rowHeight);
  }

  get longest() {
    return Math.max(0, this.full - this.height);
  }

  get longestScroll() {
    return Math.max(0, this.scrollHeight - this.height);
  }

  // Move to a place among all rows, and the scroll bar with it.
  scrollTo(top) {
    this.top = Math.min(Math.max(0, top), this.longest);
    const scale = this.longest ? this.longestScroll / this.longest : 1;
    this.element.scrollTop = this.top * scale;
    this.last = this.element.scrollTop;
    this.clear();
    this.draw();
  }

  scrolled() {
    const now = this.element.scrollTop;
    const moved = now - this.last;
    if (!moved) return;
    this.last = now;
    if (this.full <= LIMIT) {
      this.top = now;
    } else if (now <= 0) {
      this.top = 0;
      this.clear();
    } else if (now >= this.longestScroll - 1) {
      this.top = this.longest;
      this.clear();
    } else if (Math.abs(moved) < this.height) {
      this.top = Math.min(Math.max(0, this.top + moved), this.longest);
    } else {
      this.top = (now / this.longestScroll) * this.longest;
      this.clear();
    }
    this.draw();
  }

  draw() {
    const above = Math.max(0, Math.floor(this.top / this.rowHeight) - 1);
    const below = Math.ceil((this.top + this.height) / this.rowHeight) + 1;
    const first = above * this.columns;
    const end = Math.min(this.total, below * this.columns);
    for (const [index, cell] of this.cells) {
      if (index < first || index >= end) {
        cancelImages(cell);
        cell.remove();
        this.cells.delete(index);
      }
    }
    const shift = this.element.scrollTop - this.top + GAP;
    for (let index = first; index < end; index++) {
      let cell = this.cells.get(index);
      if (!cell) {
        cell = this.makeCell(index);
        this.cells.set(index, cell);
        this.space.append(cell);
      }
      const row = Math.floor(index / this.columns);
      const x = GAP + (index % this.columns) * (this.cellWidth + GAP);
      cell.style.transform = `translate(${x}px, ${row * this.rowHeight + shift}px)`;
    }
    this.request(first, end);
    this.mark();
  }

  makeCell(index) {
    const cell = document.createElement("div");
    cell.className = "cell";
    cell.id = `cell-${index}`;
    cell.dataset.index = index;
    cell.setAttribute("role", "option");
    cell.setAttribute("aria-setsize", this.total);
    cell.setAttribute("aria-posinset", index + 1);
    cell.setAttribute("aria-selected", "false");
    cell.style.width = `${this.cellWidth}px`;
    cell.style.height = `${this.rowHeight - GAP}px`;
    const row = this.row(index);
    if (row) this.fill(cell, row, index);
    return cell;
  }

  row(index) {
    const block = this.blocks.get(Math.floor(index / BLOCK));
    return Array.isArray(block) ? block[index % BLOCK] : undefined;
  }

  request(first, end) {
    if (first >= end) return;
    for (let number = Math.floor(first / BLOCK); number * BLOCK < end; number++) {
      if (this.blocks.has(number)) continue;
      this.blocks.set(number, "coming");
      const generation = this.generation;
      // While the scroll bar is dragged, most blocks are gone again at once.
      setTimeout(() => this.fetchBlock(number, generation), 30);
    }
  }

  async fetchBlock(number, generation) {
    if (generation !== this.generation) return;
    const first = Math.floor(this.top / this.rowHeight) * this.columns;
    const seen = Math.ceil(this.height / this.rowHeight + 2) * this.columns;
    if ((number + 1) * BLOCK < first - seen || number * BLOCK > first + 2 * seen) {
      this.blocks.delete(number);
      return;
    }
    let rows;
    try {
      rows = await this.load(number * BLOCK, BLOCK);
    } catch {
      this.blocks.delete(number);
      return;
    }
    if (generation !== this.generation) return;
    this.blocks.delete(number);
    this.blocks.set(number, rows);
    for (const old of this.blocks.keys()) {
      if (this.blocks.size <= KEPT_BLOCKS) break;
      this.blocks.delete(old);
    }
    for (const [index, cell] of this.cells) {
      if (Math.floor(index / BLOCK) === number && !cell.firstChild) {
        const row = this.row(index);
        if (row) this.fill(cell, row, index);
      }
    }
  }

  // --- the active cell, which the keyboard moves ---

  mark() {
    for (const [index, cell] of this.cells) {
      const active = index === this.active;
      cell.classList.toggle("active", active);
      cell.setAttribute("aria-selected", String(active));
    }
    if (this.cells.has(this.active)) {
      this.element.setAttribute("aria-activedescendant", `cell-${this.active}`);
    } else {
      this.element.removeAttribute("aria-activedescendant");
    }
  }

  setActive(index) {
    if (!this.total) return;
    this.active = Math.min(Math.max(0, index), this.total - 1);
    const top = Math.floor(this.active / this.columns) * this.rowHeight;
    if (top < this.top) this.scrollTo(top);
    else if (top + this.rowHeight + GAP > this.top + this.height) {
      this.scrollTo(top + this.rowHeight + GAP - this.height);
    }
    this.mark();
  }

  openActive() {
    const row = this.row(this.active);
    if (row) this.open(this.active, row);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.height / this.rowHeight)) * this.columns;
    const moves = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns,
      PageDown: page, PageUp: -page, Home: -this.total, End: this.total,
    };
    if (event.key in moves) this.setActive(this.active + moves[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.openActive();
    else return;
    event.preventDefault();
  }
}
