// Elements, numbers, and what the page remembers. Stored text reaches the page through text nodes and
// attributes only, never as HTML.

const state = {
  study: JSON.parse(document.getElementById('data').textContent),
  model: 0,         // index of the model whose charts are shown
  tables: {},       // by key: {sort, descending, filter}
  selects: {},      // by key: chosen value
  open: new Set(),  // keys of the details that are open
  printing: false,  // on paper every model is shown, and each issue with its evidence
};

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'style') node.style.cssText = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined) continue;
    node.append(child);
  }
  return node;
}

// A part of the page, named by its heading; the first one has the page's.
function section(id, title, ...children) {
  return el('section', {id, 'aria-labelledby': `${id}-title`}, el(id === 'deploy' ? 'h1' : 'h2', {id: `${id}-title`}, title), ...children);
}

// A <details> that stays open when the page is drawn anew.
function fold(key, summary, className, ...children) {
  const printed = state.printing && className === 'issue';
  const node = el('details', {class: className, open: printed || state.open.has(key)}, el('summary', {}, summary), ...children);
  if (!printed) node.addEventListener('toggle', () => node.open ? state.open.add(key) : state.open.delete(key));
  return node;
}

// A labelled <select>: options [[value, text]]; remembers its choice by key.
function selector(key, label, options, changed) {
  const values = options.map(([value]) => String(value));
  if (!values.includes(state.selects[key])) state.selects[key] = values[0];
  const select = el('select', {onchange: (event) => {
    state.selects[key] = event.target.value;
    changed();
  }}, options.map(([value, text]) => el('option', {value, selected: String(value) === state.selects[key]}, text)));
  return el('label', {class: 'field'}, label, select);
}

const isNumber = (value) => typeof value === 'number' && Number.isFinite(value);
const minus = (text) => text.replace('-', '−');

function digits(value, count = 3) {
  if (!isNumber(value)) return '–';
  if (value !== 0 && Math.abs(value) < 1e-4) return minus(value.toExponential(2));
  const rounded = Number(value.toPrecision(count));
  return minus(rounded.toLocaleString('en-US', {maximumSignificantDigits: count}));
}

const megabytes = (bytes) => isNumber(bytes) ? `${digits(bytes / 1e6)} MB` : '–';
const points = (share) => minus((share > 0 ? '+' : '') + (100 * share).toFixed(1));

// "−70 %" of a change from `before` to `after`.
function change(before, after) {
  if (!(before > 0) || !isNumber(after)) return '';
  const share = Math.round(100 * (after / before - 1));
  return share === 0 ? 'the same' : minus(`${share > 0 ? '+' : ''}${share}\u00a0%`);
}

const kVerdicts = {
  worse: ['▼', 'worse', 'bad'],
  better: ['▲', 'better', 'good'],
  none: ['≈', 'no measurable difference', ''],
};
function verdictBadge(difference, withWords) {
  if (!difference || difference.missing) return el('span', {class: 'badge warn'}, 'not comparable');
  const [sign, words, tone] = kVerdicts[difference.verdict];
  return el('span', {class: `badge ${tone}`, title: words}, withWords ? `${sign} ${words}` : sign,
            withWords ? null : el('span', {class: 'sr'}, words));
}

const isTask = (cell) => cell.task !== 'bench' && cell.task !== 'kl';
const cellOf = (variant, task) => variant.cells.find((cell) => cell.task === task);
const baselineOf = (model) => model.variants.find((variant) => variant.baseline);
