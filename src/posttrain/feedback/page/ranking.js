/* A ranking in the making: places 0 (best) to n-1, equal places tie, null is not placed. No page, no network. */

export class Ranking {
  constructor(n) {
    this.n = n;
    this.clear();
  }

  clear() {
    this.places = Array(this.n).fill(null);
    this.implied = new Set(); // placed because all others were
    this.tying = false; // the next pick ties with the last
    this.last = null;
  }

  restore(places) {
    this.clear();
    if (Array.isArray(places) && places.length === this.n) {
      this.places = places.map((place) => (Number.isInteger(place) && place >= 0 && place < this.n ? place : null));
    }
  }

  get numPlaced() {
    return this.places.filter((place) => place !== null).length;
  }

  /* Places without gaps. */
  dense() {
    const used = [...new Set(this.places.filter((place) => place !== null))].sort((a, b) => a - b);
    return this.places.map((place) => (place === null ? null : used.indexOf(place)));
  }

  /* [[2], [0, 1]]: the answers of each place, the best first. */
  groups() {
    const found = [];
    this.dense().forEach((place, answer) => {
      if (place !== null) (found[place] ??= []).push(answer);
    });
    return found;
  }

  /* The next best answer, or what ties with the last one. Of two answers: the better one. */
  pick(answer) {
    if (this.tying && this.last !== null && this.last !== answer) {
      const place = this.places[this.last];
      this.#unimply();
      this.places[answer] = place;
    } else if (this.n === 2) {
      this.clear();
      this.places[answer] = 0;
    } else if (this.places[answer] !== null && !this.implied.has(answer)) {
      this.#unimply();
      this.places[answer] = null;
      this.places = this.dense();
      this.tying = false;
      this.last = null;
      return;
    } else {
      this.#unimply();
      this.places = this.dense();
      this.places[answer] = new Set(this.places.filter((place) => place !== null)).size;
    }
    this.tying = false;
    this.last = answer;
    this.#imply();
  }

  /* Exactly this place; null takes it away. */
  put(answer, place) {
    this.#unimply();
    this.places[answer] = place;
    this.tying = false;
    this.last = place === null ? null : answer;
    if (place !== null) this.#imply();
  }

  /* A step up (-1) or down (1): out of a tie, or into one with the neighbour. */
  move(answer, step) {
    this.implied.clear();
    this.tying = false;
    const groups = this.groups();
    const here = groups.findIndex((group) => group.includes(answer));
    if (here < 0) groups.push([answer]);
    else if (groups[here].length > 1) {
      groups[here] = groups[here].filter((other) => other !== answer);
      groups.splice(step < 0 ? here : here + 1, 0, [answer]);
    } else if (groups[here + step]) {
      groups[here + step].push(answer);
      groups.splice(here, 1);
    }
    groups.forEach((group, place) => group.forEach((member) => (this.places[member] = place)));
    this.last = answer;
  }

  /* `=`: with nothing placed all tie; of two answers they tie; else the next pick ties with the last. */
  tie() {
    if (this.numPlaced === 0 || this.n === 2) {
      this.implied.clear();
      this.places.fill(0);
      this.last = null;
    } else if (this.last !== null) this.tying = !this.tying;
  }

  tieAll() {
    this.clear();
    this.places.fill(0);
  }

  #unimply() {
    this.implied.forEach((answer) => (this.places[answer] = null));
    this.implied.clear();
  }

  /* One answer left has one place left. */
  #imply() {
    if (this.n - this.numPlaced !== 1) return;
    const answer = this.places.indexOf(null);
    const used = new Set(this.places);
    this.places[answer] = [...this.places.keys()].find((place) => !used.has(place));
    this.implied.add(answer);
  }
}
