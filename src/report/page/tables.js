// A table that sorts by its column heads and filters by words. Columns: {title, right, wide}; a cell is a text,
// [text, number], or {text, number, node}.

const textOf = (cell) => typeof cell === 'string' ? cell : Array.isArray(cell) ? cell[0] : cell.text;
// As shown, so that a column whose cells have different units (per cent, perplexity) sorts as it reads; what
// shows no plain number ("< 0.001") goes by its raw one.
function numberOf(cell) {
  const raw = Array.isArray(cell) ? cell[1] : typeof cell === 'string' ? undefined : cell.number;
  if (!isNumber(raw)) return undefined;
  const shown = parseFloat(textOf(cell).replace('−', '-').replace(/^[×±]/, '').replaceAll(',', ''));
  return isNumber(shown) ? shown : raw;
}

function compareCells(a, b) {
  const x = numberOf(a), y = numberOf(b);
  if (isNumber(x) && isNumber(y)) return x - y;
  if (isNumber(x) !== isNumber(y)) return isNumber(x) ? -1 : 1;
  return textOf(a).localeCompare(textOf(b), 'en', {numeric: true});
}

const kShort = 32;  // letters that a cell keeps on one line

// `options`: stack: on a phone a row is a card; whole: never scrolls up and down within.
function dataTable(key, caption, columns, rows, options = {}) {
  const mine = state.tables[key] ||= {sort: -1, descending: false, filter: ''};
  const body = el('tbody');
  const count = el('span', {class: 'muted small', 'aria-live': 'polite'});
  const heads = columns.map((column, i) => el('th', {scope: 'col', class: column.right ? 'right' : null},
    state.printing ? column.title : el('button', {type: 'button', onclick: () => {
      mine.descending = mine.sort === i && !mine.descending;
      mine.sort = i;
      fill();
    }}, column.title)));

  function bodyCell(cell, i) {
    const text = textOf(cell);
    const content = cell.node ? cell.node() : text;
    if (i === 0) return el('th', {scope: 'row', title: text}, content);
    const tone = text.startsWith('missing') ? ' missing' : '';
    const short = columns[i].right || (!columns[i].wide && !cell.node && text.length <= kShort);
    const classes = (columns[i].right ? 'right ' : '') + (short ? 'short' : '') + (columns[i].wide ? ' wide' : '') + tone;
    return el('td', {class: classes.trim() || null, 'data-title': columns[i].title}, content);
  }

  function fill() {
    const words = mine.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.filter((row) => {
      const text = row.map(textOf).join(' ').toLowerCase();
      return words.every((word) => text.includes(word));
    });
    if (mine.sort >= 0) {
      const sign = mine.descending ? -1 : 1;
      found.sort((a, b) => sign * compareCells(a[mine.sort], b[mine.sort]));
    }
    heads.forEach((head, i) => {
      if (i === mine.sort) head.setAttribute('aria-sort', mine.descending ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
    });
    body.replaceChildren(...found.map((row) => el('tr', {}, row.map(bodyCell))));
    if (found.length === 0)
      body.append(el('tr', {}, el('td', {colspan: columns.length, class: 'nothing'}, 'No row holds these words.')));
    count.textContent = found.length === rows.length ? `${rows.length} rows` : `${found.length} of ${rows.length} rows`;
  }

  fill();
  const search = el('input', {type: 'search', placeholder: 'Filter…', 'aria-label': `Filter ${caption}`, value: mine.filter,
    oninput: (event) => {
      mine.filter = event.target.value;
      fill();
    }});
  return el('div', {'data-table': key},
    rows.length > 3 ? el('div', {class: 'controls'}, search, count) : null,
    el('div', {class: options.whole ? 'scroll whole' : 'scroll', tabindex: 0, role: 'region', 'aria-label': caption},
      el('table', {class: options.stack ? 'data stack' : 'data'},
        el('caption', {class: 'sr'}, caption), el('thead', {}, el('tr', {}, heads)), body)));
}

// A table of the report's column registry, as page_data.cpp writes it.
function registryTable(key, caption, table) {
  return dataTable(key, caption, table.columns.map(([title, right]) => ({title, right})), table.rows);
}
