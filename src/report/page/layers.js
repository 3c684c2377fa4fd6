// Layer by layer: what an analysis found, and what the quantization report says.

// A column of linears, unpacked: page_data.cpp sends {"all": value} where every value is the same.
const linearColumn = (q, key) => Array.isArray(q.linears[key]) ? q.linears[key] : Array(q.count).fill(q.linears[key].all);

// From 0, hardly told from the card, to 1; and black or white, whichever is read better on it (WCAG's luminance).
function heatColour(t) {
  const linear = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const cold = linear(css('--raised')), hot = linear(css('--c2'));
  const mixed = cold.map((v, k) => v + (0.04 + 0.92 * t) * (hot[k] - v));
  const luminance = 0.2126 * mixed[0] + 0.7152 * mixed[1] + 0.0722 * mixed[2];
  const shown = mixed.map((v) => Math.round(255 * (v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055)));
  return [`rgb(${shown})`, luminance > 0.179 ? '#000' : '#fff'];
}

// "model.layers.3.mlp.up_proj" → [3, "mlp.up_proj"]; null for what is in no layer.
function placeOf(name) {
  const match = /(?:^|\.)layers\.(\d+)\.(.+)$/.exec(name || '');
  return match ? [Number(match[1]), match[2]] : null;
}

// {rows: [label, Map from layer to value]}: a row a kind of linear, in the model's order.
function rowsByKind(names, values) {
  const rows = new Map();
  names.forEach((name, i) => {
    const place = placeOf(name);
    if (!place) return;
    if (!rows.has(place[1])) rows.set(place[1], new Map());
    rows.get(place[1]).set(place[0], values[i]);
  });
  return [...rows];
}

// A heat map of layers: a table, since a screen reader reads it cell by cell. Colours on a logarithmic scale.
function heatMap(title, rows, {note, caption, empty, controls, numbers}) {
  const node = el('figure', {class: 'card heatmap', 'aria-label': title}, el('h5', {}, title));
  if (controls) node.append(el('div', {class: 'controls'}, controls));
  const layers = [...new Set(rows.flatMap(([, cells]) => [...cells.keys()]))].sort((a, b) => a - b);
  const values = rows.flatMap(([, cells]) => [...cells.values()]).filter((v) => v > 0);
  if (!layers.length || !values.length) {
    node.append(el('p', {class: 'empty'}, empty));
    return node;
  }
  const least = Math.min(...values), most = Math.max(...values);
  const low = Math.log(least), high = Math.log(most);
  const cell = (kind, layer, v) => {
    if (!isNumber(v)) return el('td', {}, '–');
    const [background, ink] = heatColour(v > 0 && high > low ? (Math.log(v) - low) / (high - low) : v > 0 ? 0.5 : 0);
    const text = digits(v, 2);
    return el('td', {style: `background:${background};color:${ink}`, title: `layer ${layer} ${kind}: ${text}`},
      layers.length <= 10 ? text : el('span', {class: 'sr'}, text));
  };
  node.append(
    el('p', {class: 'note'}, `${note}, on a logarithmic scale: `, el('span', {class: 'scale'}, digits(least, 2),
      el('span', {class: 'ramp', style: `background:linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map((t) => heatColour(t)[0]).join()})`}),
      digits(most, 2))),
    el('div', {class: 'sideways', tabindex: 0, role: 'region', 'aria-label': title},
      el('table', {class: 'heat'}, el('caption', {class: 'sr'}, caption),
        el('thead', {}, el('tr', {}, el('td', {}, el('span', {class: 'sr'}, 'layer')), layers.map((l) => el('th', {scope: 'col'}, String(l))))),
        el('tbody', {}, rows.map(([kind, cells]) => el('tr', {}, el('th', {scope: 'row'}, kind), layers.map((l) => cell(kind, l, cells.get(l)))))))));
  if (numbers) node.append(fold(`${title} ${state.model}`, 'Numbers', 'fold', numbers));
  return node;
}

// What `nibble analyze` measured of the model as it is.
function sensitivityParts(model, redraw) {
  const head = el('h4', {class: 'group'}, 'Sensitivity of the layers'), title = 'Sensitivity by layer';
  const a = model.analysis;
  if (a.missing) return [head, heatMap(title, [], {empty: `${a.missing[0].toUpperCase()}${a.missing.slice(1)}.`})];
  const {name: names, kl, errors} = a.linears;
  const key = `sensitivity ${state.model}`;
  const measures = [...kl ? [['kl', `KL, ${a.probe}`]] : [], ...a.choices.map((words, i) => [String(i), `output error, ${words}`])];
  const controls = selector(key, 'Colour', measures, redraw);
  const chosen = state.selects[key], isKl = chosen === 'kl';
  const rows = rowsByKind(names, isKl ? kl : errors[chosen]);
  if (isKl) for (const [label, values] of a.layers) rows.push([`whole layer ${label}`, new Map(values)]);
  const number = (v) => [digits(v), isNumber(v) ? v : undefined];
  const numbers = dataTable(title, title, [{title: 'Linear'}, ...kl ? [{title: 'KL', right: true}] : [], ...a.choices.map((words) => ({title: `Error ${words}`, right: true}))],
    names.map((name, i) => [name.replace(/^model\./, ''), ...kl ? [number(kl[i])] : [], ...errors.map((column) => number(column[i]))]));
  return [head, heatMap(title, rows, {
    controls, numbers, empty: 'The analysis holds no number above 0.',
    note: isKl ? `KL to the unquantized model in nats over ${digits(a.positions, 6)} positions, when this linear alone (below: this whole layer) is rounded`
               : `Relative output error on ${digits(a.tokens, 6)} tokens of calibration text, when this linear alone is rounded`,
    caption: `${isKl ? 'KL' : 'Relative output error'} when rounded alone, by linear and layer`})];
}

function quantizationParts(model, redraw) {
  const head = el('h4', {class: 'group'}, 'The quantization report');
  const variants = model.variants.filter((v) => v.quantization && !v.quantization.missing);
  if (!variants.length) return [head, el('p', {class: 'empty'}, 'No quantization report of this model is stored yet.')];
  const key = `linears ${state.model}`, measureKey = `heat ${state.model}`;
  const controls = [selector(key, 'Variant', variants.map((v) => [v.label, v.label]), redraw),
    selector(measureKey, 'Colour', [['error', 'relative output error'], ['ratio', "share of rounding's error"]], redraw)];
  const variant = variants.find((v) => v.label === state.selects[key]), q = variant.quantization;
  const names = linearColumn(q, 'name'), errors = linearColumn(q, 'error'), rounding = linearColumn(q, 'rtn_error');
  const ratio = (i) => isNumber(errors[i]) && rounding[i] > 0 ? errors[i] / rounding[i] : undefined;
  const isRatio = state.selects[measureKey] === 'ratio';
  const what = isRatio ? "Share of rounding's output error that is left" : 'Relative output error of each linear on the calibration text';
  return [head, heatMap('Errors by layer', rowsByKind(names, isRatio ? names.map((_, i) => ratio(i)) : errors), {
    controls, note: what, caption: `${what}, by linear and layer of ${variant.label}`,
    empty: 'The quantization report holds no output errors by layer.'}),
  notesOf(q), el('div', {class: 'screen'}, linearsTable(variant, q, names, errors, rounding, ratio))];
}

function notesOf(q) {
  const list = [];
  if (q.calibration && q.calibration.tokens) list.push(`Calibrated on ${digits(q.calibration.tokens, 6)} tokens.`);
  list.push(q.fallbacks ? `${q.fallbacks} linears with a fallback or a remark; sort by the last columns to see them.` : 'No fallback: every linear was quantized as planned.');
  return el('p', {class: 'small', style: 'margin:1rem 0 0'}, [...list, ...q.warnings.map((w) => `Warning: ${w}.`)].join(' '));
}

function linearsTable(variant, q, names, errors, rounding, ratio) {
  const columns = {};
  for (const k of Object.keys(q.linears)) columns[k] = linearColumn(q, k);
  const number = (v, n = 3) => [digits(v, n), isNumber(v) ? v : undefined];
  const rows = names.map((name, i) => [(name || '–').replace(/^model\./, ''), (columns.shape[i] || []).join(' × ') || '–', columns.method[i] || '–', number(columns.bits[i]), columns.group_size[i] === 0 ? 'row' : number(columns.group_size[i]),
    number(columns.remainder[i]), number(errors[i]), number(rounding[i]), number(ratio(i)), number(columns.damp[i]), number(columns.seconds[i]), columns.fallback[i] || '–', columns.reason[i] || '–']);
  return dataTable('linears', `Quantization report of ${variant.label}`, [{title: 'Linear'}, {title: 'Shape', right: true}, {title: 'Method'}, {title: 'Bits', right: true}, {title: 'Group', right: true},
    {title: 'Remainder', right: true}, {title: 'Error', right: true}, {title: "Rounding's", right: true}, {title: 'Ratio', right: true}, {title: 'Damp', right: true}, {title: 'Seconds', right: true}, {title: 'Fallback'}, {title: 'Reason', wide: true}], rows);
}
