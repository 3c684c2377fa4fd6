// The head of the page: which variant of each model to deploy, Table 1, the critical issues.

function tile(value, label) {
  return el('div', {class: 'tile'}, el('b', {}, value), el('span', {}, label));
}

const benchMemory = (variant) => {
  const bench = cellOf(variant, 'bench');
  return bench && bench.memory ? bench.memory.peak : undefined;
};

function tilesOf(variant, baseline) {
  const tiles = [];
  if (variant.file_bytes) {
    const against = baseline ? change(baseline.file_bytes, variant.file_bytes) : '';
    tiles.push(tile(megabytes(variant.file_bytes), against ? `file, ${against}` : 'file'));
  }
  const memory = benchMemory(variant), before = baseline ? benchMemory(baseline) : undefined;
  if (memory) tiles.push(tile(megabytes(memory), before ? `peak memory, ${change(before, memory)}` : 'peak memory'));
  if (variant.decode) {
    const factor = baseline && baseline.decode ? variant.decode.mean / baseline.decode.mean : undefined;
    tiles.push(tile(`${digits(variant.decode.mean)}/s`, factor ? `tokens decoded, ×${digits(factor)}` : 'tokens decoded'));
  }
  const perplexity = variant.cells.find((cell) => cell.perplexity && cell.difference && !cell.difference.missing);
  if (perplexity)
    tiles.push(tile(`×${Math.exp(perplexity.difference.value).toFixed(3)}`, `perplexity on ${perplexity.task}`));
  return tiles;
}

function keptTable(variant, baseline) {
  const rows = variant.cells.filter((cell) => isTask(cell) && cell.metrics && !cell.perplexity).map((cell) => {
    const before = baseline && cellOf(baseline, cell.task);
    const score = (c) => c && c.metrics ? (100 * c.metrics[c.primary][0]).toFixed(1) : '–';
    return el('tr', {}, el('th', {scope: 'row'}, cell.task), el('td', {}, `${score(before)} → ${score(cell)} %`),
              el('td', {}, verdictBadge(cell.difference)));
  });
  return rows.length ? el('table', {class: 'kept'}, el('caption', {class: 'sr'}, 'Right answers, baseline and this variant'), rows) : null;
}

function deployCard(model, i) {
  const choice = state.study.choices[i];
  const baseline = baselineOf(model);
  if (choice.variant === null)
    return el('article', {class: 'card deploy'}, el('div', {class: 'model'}, model.name),
              el('div', {class: 'pick'}, 'Nothing yet'), el('p', {class: 'small muted'}, choice.reason));
  const variant = model.variants[choice.variant];
  const named = [...new Set(state.study.issues.filter((issue) => issue.where.startsWith(model.name) &&
    issue.evidence.some(([cell]) => cell === variant.label || cell.startsWith(`${variant.label},`))).map((issue) => issue.title))];
  return el('article', {class: 'card deploy'},
    el('div', {class: 'model'}, model.name),
    el('div', {class: 'pick'}, el('span', {}, variant.label),
      choice.keeps ? el('span', {class: 'badge good'}, 'accuracy kept') : el('span', {class: 'badge bad'}, 'loses accuracy')),
    el('div', {class: 'tiles'}, tilesOf(variant, baseline)),
    keptTable(variant, baseline),
    el('p', {class: 'small', style: 'margin:0'}, choice.reason),
    named.length ? el('p', {class: 'small', style: 'margin:0'}, 'Critical issues name it: ', named.map((title) => el('a', {href: '#issues', class: 'badge warn', style: 'margin-right:.3rem'}, title))) : null,
    choice.cautions.length ? el('ul', {class: 'small muted'}, choice.cautions.map((c) => el('li', {}, c))) : null,
    el('div', {class: 'small'}, el('a', {href: '#models', onclick: () => showModel(i)}, 'How the others compare')));
}

function coverage() {
  const study = state.study;
  const missing = study.models.flatMap((m) => m.variants.flatMap((v) => v.cells.filter((c) => c.missing)));
  if (missing.length === 0) return null;
  const tasks = [...study.tasks, 'kl', 'bench'].filter((t) => study.models.some((m) => m.variants.some((v) => cellOf(v, t))));
  const badge = (cell) => !cell ? '–' : !cell.missing ? el('span', {class: 'badge good'}, 'done')
    : cell.waiting ? el('span', {class: 'badge'}, 'waiting') : el('span', {class: 'badge bad', title: cell.missing}, 'failed');
  return fold('coverage', `Cells: ${study.progress}`, 'fold',
    el('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Cells of the study'},
      el('table', {class: 'cover'}, el('thead', {}, el('tr', {}, ['Model', 'Configuration', ...tasks].map((t) => el('th', {scope: 'col'}, t)))),
        el('tbody', {}, study.models.flatMap((m) => m.variants.map((v) => el('tr', {}, el('th', {scope: 'row'}, m.name), el('td', {}, v.label),
          tasks.map((t) => el('td', {}, badge(cellOf(v, t)))))))))));
}

function deploySection() {
  const {models, tasks, progress} = state.study;
  const configurations = models.reduce((sum, m) => sum + m.variants.filter((v) => !v.baseline).length, 0);
  const counted = (n, noun) => `${n} ${noun}${n === 1 ? '' : 's'}`;
  return el('section', {id: 'deploy'},
    el('h1', {}, 'What to deploy'),
    el('p', {class: 'lead', id: 'summary'}, `${counted(models.length, 'model')}, ${counted(configurations, 'quantized configuration')}, ` +
      `${counted(tasks.length, 'task')}; ${progress}.`),
    el('div', {class: 'deploys'}, models.map(deployCard)),
    coverage());
}

function table1Section() {
  const columns = [{title: 'Model'}, {title: 'Dataset'}, {title: 'Baseline', right: true}, {title: 'Best', right: true},
    {title: 'Quantized as'}, {title: 'Difference'}, {title: 'Memory', right: true}, {title: 'Size', right: true}, {title: 'Key observation', wide: true}];
  const split = (text) => {
    const at = text.indexOf(' [');
    return at < 0 ? text : [text.slice(0, at), el('span', {class: 'interval'}, text.slice(at))];
  };
  const difference = (r) => r.difference.missing ? r.difference.missing : {
    text: `${r.difference.text} ${r.significance}`, number: r.difference.value,
    node: () => el('span', {class: 'mark', title: r.significance}, verdictBadge(r.difference), el('span', {}, split(r.difference.text)))};
  const score = (text) => ({text, number: parseFloat(text), node: () => el('span', {}, split(text))});
  const share = ([text, value]) => isNumber(value) ? {text: `${points(value)} %`, number: value, node: () => el('span', {title: text}, `${points(value)} %`)} : text;
  const dataset = (r) => ({text: `${r.task} ${r.metric}`, node: () => el('span', {}, r.task, el('br'), el('span', {class: 'muted small'}, r.metric))});
  const rows = state.study.table1.map((r) => [r.model, dataset(r), score(r.baseline), score(r.best), r.variant, difference(r), share(r.memory), share(r.size), r.observation]);
  return el('section', {id: 'table1'}, el('h2', {}, 'Table 1: baseline and best quantized'),
    el('p', {class: 'lead'}, 'Scores with their 95 % interval; differences are paired by row, in points of per cent, or × of the perplexity. ' +
      '▼ worse and ▲ better only where the interval excludes no difference; ≈ none could be measured. Memory and size against the baseline: − is less.'),
    dataTable('table1', 'Table 1', columns, rows, {stack: true}));
}

function issueCard(issue, i) {
  const tone = issue.rule === 'missing_data' ? 'warn' : 'bad';
  const node = fold(`issue ${issue.rule} ${issue.where}`, '', 'issue', el('div', {class: 'body'},
    el('dl', {}, el('dt', {}, 'Held against'), el('dd', {}, issue.threshold), el('dt', {}, 'Likely cause'), el('dd', {}, issue.cause)),
    dataTable(`issue ${i}`, `Evidence: ${issue.title}, ${issue.where}`, [{title: 'Cell'}, {title: 'What was measured', wide: true}], issue.evidence)));
  node.querySelector('summary').append(el('span', {class: `badge ${tone}`}, issue.title), el('strong', {}, issue.where),
    el('span', {class: 'finding'}, issue.finding));
  return node;
}

function issuesSection() {
  const {issues, rules} = state.study;
  return el('section', {id: 'issues'}, el('h2', {}, issues.length ? `Critical issues: ${issues.length}` : 'Critical issues: none'),
    el('p', {class: 'lead'}, issues.length ? 'Each is found by a rule from stored results. Open one for the rows that prove it.'
                                           : 'None of the rules found anything.'),
    issues.map(issueCard),
    fold('rules', 'The rules, and how often each could judge', 'fold',
      dataTable('rules', 'Rules', [{title: 'Rule'}, {title: 'Fires when', wide: true}, {title: 'Judged', right: true}, {title: 'Found', right: true}],
        rules.map(([title, criterion, judged, found]) => [title, criterion, [String(judged), judged], [String(found), found]]))));
}
