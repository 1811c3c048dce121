/* What a person chose for this browser. */

export function chosen(name, values) {
  try {
    const value = localStorage.getItem(`pairloop.judge.${name}`);
    return values.includes(value) ? value : values[0];
  } catch {
    return values[0];
  }
}

export function choose(name, value) {
  try {
    localStorage.setItem(`pairloop.judge.${name}`, value);
  } catch {
    // Then it holds until the page is left.
  }
}
