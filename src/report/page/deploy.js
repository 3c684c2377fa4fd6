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

const kSure = {clear: ['good', 'clear', 'Another run would have to differ by more than its uncertainty to change this'],
  tie: ['warn', 'tie', 'Another run could choose another one'], none: ['warn', 'none', '']};

function othersTable(model, choice) {
  const rows = choice.others.map(([v, front, reason]) => {
    const variant = model.variants[v], speed = variant.decode ? variant.decode.mean : undefined;
    return [variant.label, [digits(variant.file_bytes / 1e6), variant.file_bytes], [digits(speed), speed], front ? 'yes' : 'no', reason];
  });
  return fold(`others ${model.name}`, `Why none of the ${rows.length} others`, 'fold',
    dataTable(`others ${model.name}`, `Other configurations of ${model.name}`,
      [{title: 'Configuration'}, {title: 'File MB', right: true}, {title: 'Tokens/s', right: true}, {title: 'On the front'}, {title: 'Why not', wide: true}], rows));
}

// What `nibble recommend --model` says of this model, without limits.
function deployCard(model, i) {
  const choice = state.study.choices[i];
  const baseline = baselineOf(model);
  const lines = choice ? el('dl', {class: 'lines small'}, choice.lines.flatMap(([label, text]) => [el('dt', {}, label), el('dd', {}, text)])) : null;
  const name = el('h2', {class: 'model'}, model.name);
  if (!choice || choice.variant === null)
    return el('article', {class: 'card deploy'}, name, el('div', {class: 'pick'}, 'Nothing yet'), lines);
  const variant = model.variants[choice.variant];
  // The figures of a quantized one say what compression costs and brings, also where it is not the choice.
  const shown = choice.quantized === null ? variant : model.variants[choice.quantized];
  const [tone, word, meaning] = kSure[choice.verdict];
  return el('article', {class: 'card deploy'}, name,
    el('div', {class: 'pick'}, el('span', {}, variant.label),
      variant.baseline ? el('span', {class: 'badge'}, 'not quantized') : null, el('span', {class: `badge ${tone}`, title: meaning}, word)),
    shown === variant ? null : el('p', {class: 'small muted', style: 'margin:0'}, `Figures of ${shown.label}, the best quantized one:`),
    el('div', {class: 'tiles'}, tilesOf(shown, baseline)),
    keptTable(shown, baseline),
    lines,
    choice.others.length ? othersTable(model, choice) : null,
    el('div', {class: 'small'}, el('a', {href: '#models', onclick: () => showModel(i)}, 'Its charts')));
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
      el('table', {class: 'cover'}, el('caption', {class: 'sr'}, 'Which cells are measured'), el('thead', {}, el('tr', {}, ['Model', 'Configuration', ...tasks].map((t) => el('th', {scope: 'col'}, t)))),
        el('tbody', {}, study.models.flatMap((m) => m.variants.map((v) => el('tr', {}, el('th', {scope: 'row'}, m.name), el('td', {}, v.label),
          tasks.map((t) => el('td', {}, badge(cellOf(v, t)))))))))));
}

function deploySection() {
  const {models, tasks, progress} = state.study;
  const configurations = models.reduce((sum, m) => sum + m.variants.filter((v) => !v.baseline).length, 0);
  const counted = (n, noun) => `${n} ${noun}${n === 1 ? '' : 's'}`;
  return section('deploy', 'What to deploy',
    el('p', {class: 'lead', id: 'summary'}, `${counted(models.length, 'model')}, ${counted(configurations, 'quantized configuration')}, ` +
      `${counted(tasks.length, 'task')}; ${progress}.`),
    el('p', {class: 'small muted rule'}, 'Chosen by the rule of ', el('code', {}, 'nibble recommend'), ' without limits: the best scores, and of configurations that cannot be told apart the smallest; ' +
      'a measured loss above 1 % rules out. ', el('code', {}, '--min-accuracy-kept 95% --max-perplexity-ratio 1.05'), ' allows to lose more; ', el('code', {}, '--max-memory'), ', ', el('code', {}, '--min-throughput'), ' and others ask for more.'),
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
  const share = ([text, value]) => isNumber(value) ? {text: `${points(value)}\u00a0%`, number: value, node: () => el('span', {title: text}, `${points(value)}\u00a0%`)} : text;
  const dataset = (r) => ({text: `${r.task} ${r.metric}`, node: () => el('span', {}, r.task, el('br'), el('span', {class: 'muted small'}, r.metric))});
  const rows = state.study.table1.map((r) => [r.model, dataset(r), score(r.baseline), score(r.best), r.variant, difference(r), share(r.memory), share(r.size), r.observation]);
  return section('table1', 'Table 1: baseline and best quantized',
    el('p', {class: 'lead'}, 'Scores with their 95 % interval; differences are paired by row, in points of per cent, or × of the perplexity. ' +
      '▼ worse and ▲ better only where the interval excludes no difference; ≈ none could be measured. Memory and size against the baseline: − is less.'),
    dataTable('table1', 'Table 1', columns, rows, {stack: true, whole: true}));
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
  return section('issues', issues.length ? `Critical issues: ${issues.length}` : 'Critical issues: none',
    el('p', {class: 'lead'}, issues.length ? 'Each is found by a rule from stored results. Open one for the rows that prove it.'
                                           : 'None of the rules found anything.'),
    issues.map(issueCard),
    fold('rules', 'The rules, and how often each could judge', 'fold',
      dataTable('rules', 'Rules', [{title: 'Rule'}, {title: 'Fires when', wide: true}, {title: 'Judged', right: true}, {title: 'Found', right: true}],
        rules.map(([title, criterion, judged, found]) => [title, criterion, [String(judged), judged], [String(found), found]]))));
}
