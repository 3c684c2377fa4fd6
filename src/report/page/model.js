// The charts of one model.

// [key, words, value of a variant as [value, low, high] or null] of what size can be weighed against.
function qualityMeasures(model) {
  const measures = [];
  const add = (key, words, value) => measures.some(([k]) => k === key) || measures.push([key, words, value]);
  const ratioOf = (cell) => cell && cell.difference && !cell.difference.missing ? ['value', 'low', 'high'].map((k) => Math.exp(cell.difference[k])) : null;
  if (model.variants.some((v) => v.kl))
    add('kl', 'KL to the baseline (nats)', (v) => v.baseline ? [0, 0, 0] : v.kl || null);
  for (const cell of model.variants.flatMap((v) => v.cells)) {
    const task = cell.task;
    if (cell.perplexity && cell.difference && !cell.difference.missing)
      add(`${task} ratio`, `perplexity on ${task}, × the baseline's`, (v) => v.baseline ? [1, 1, 1] : ratioOf(cellOf(v, task)));
    if ((cell.metrics || {}).gold_ppl)
      add(`${task} gold`, `perplexity of the right answer on ${task}`, (v) => (cellOf(v, task) || {}).metrics?.gold_ppl || null);
  }
  const rank = ([key]) => key === 'kl' ? 0 : key.endsWith('ratio') ? 1 : 2;
  return measures.sort((a, b) => rank(a) - rank(b));
}

// Those that no other beats in both: smaller file and lower value.
function paretoFront(list) {
  let lowest = Infinity;
  return [...list].sort((a, b) => a.x - b.x || a.y - b.y).filter((p) => p.y < lowest && ((lowest = p.y), true));
}

function sizeFigure(model, redraw) {
  const measures = qualityMeasures(model);
  const title = 'Size against quality';
  if (!measures.length) return figure(title, {className: 'wide', empty: 'No perplexity and no KL of this model is stored yet.'});
  const controls = selector(`quality ${state.model}`, 'Quality', measures.map(([key, words]) => [key, words]), redraw);
  const [, words, value] = measures.find(([key]) => key === state.selects[`quality ${state.model}`]);
  const list = model.variants.filter((v) => v.file_bytes && value(v) && isNumber(value(v)[0]))
    .map((v) => ({x: v.file_bytes / 1e6, y: value(v)[0], range: [value(v)[1], value(v)[2]], variant: v}));
  const front = paretoFront(list);
  const onFront = new Set(front.map((p) => p.variant));
  const bounds = list.flatMap((p) => [p.y, ...p.range]).filter(isNumber);
  const isKl = state.selects[`quality ${state.model}`] === 'kl';  // which is never below 0
  const room = {suggestedMin: Math.min(...bounds), suggestedMax: Math.max(...bounds), grace: '6%', ...isKl ? {min: 0} : {}};
  const noKl = measures[0][0] === 'kl' ? '' : ' The KL to the baseline was not measured in this study.';
  return figure(title, {
    className: 'wide', controls, height: 340,
    note: `Lower and further left is better. The dashed line joins the variants that no other beats in both; bars are 95 % intervals, of ratios paired by window.${noKl}`,
    words: `On the front: ${front.map((p) => p.variant.label).join(', ')}.`,
    empty: `No variant has both a file size and a ${words}.`,
    config: list.length ? {
      type: 'scatter',
      data: {datasets: [
        ...list.map((p) => ({
          data: [{x: p.x, y: p.y}], names: [p.variant.label], tips: [`${digits(p.x)} MB, ${words} ${digits(p.y, 4)} [${digits(p.range[0], 4)}, ${digits(p.range[1], 4)}]`],
          labels: [p.variant.label], whiskers: [p.range], whiskerAxis: 'y', whiskerColours: [faded(colourOf(p.variant), 60)], borderColor: colourOf(p.variant),
          backgroundColor: onFront.has(p.variant) ? colourOf(p.variant) : css('--card'), pointRadius: 6, pointHoverRadius: 8, borderWidth: 2, clip: 10,
        })),
        {type: 'line', data: front.map(({x, y}) => ({x, y})), names: front.map((p) => p.variant.label), tips: front.map((p) => `${digits(p.x)} MB, ${digits(p.y, 4)}`),
         stepped: 'after', borderColor: faded(css('--accent'), 70), borderDash: [5, 4], borderWidth: 1.5, pointRadius: 0, fill: false, order: 9},
      ]},
      options: baseOptions(axis('file, MB', {grace: '8%'}), axis(words, room), {options: {layout: {padding: {right: 30, top: 8}}}}),
    } : null,
    table: {columns: ['Configuration', 'File MB', words, '95 % low', '95 % high', 'On the front'],
      rows: list.map((p) => [p.variant.label, [digits(p.x), p.x], [digits(p.y, 4), p.y], [digits(p.range[0], 4), p.range[0]], [digits(p.range[1], 4), p.range[1]], onFront.has(p.variant) ? 'yes' : 'no'])},
  });
}

function accuracyFigures(model) {
  const baseline = baselineOf(model);
  const tasks = state.study.tasks.filter((task) => model.variants.some((v) => (cellOf(v, task) || {}).metrics && !cellOf(v, task).perplexity));
  const compared = (task) => model.variants.filter((v) => !v.baseline && (cellOf(v, task) || {}).difference && !cellOf(v, task).difference.missing);
  const kept = [], flips = [];
  for (const task of tasks) {
    const variants = compared(task), names = variants.map((v) => v.label);
    const differences = variants.map((v) => cellOf(v, task).difference);
    const before = baseline && (cellOf(baseline, task) || {}).metrics ? cellOf(baseline, task) : null;
    const score = before ? before.metrics[before.primary][0] : undefined;
    const share = (d) => score > 0 ? `${(100 * (score + d.value) / score).toFixed(1)} %` : '–';
    const empty = 'No quantized variant compares with the baseline on this task yet.';
    const colours = variants.map(colourOf);
    kept.push(figure(`Accuracy kept: ${task}`, {
      empty, height: rowsHeight(names.length),
      note: before ? `Baseline ${(100 * score).toFixed(1)} % of ${before.rows} rows. Change in points, paired, with its 95 % interval.` : null,
      words: variants.map((v, i) => `${v.label} ${differences[i].text}: ${kVerdicts[differences[i].verdict][1]}`).join('; '),
      config: names.length ? bandConfig(names, differences.map((d) => [100 * d.low, 100 * d.high]), {
        title: 'points', marks: differences.map((d) => 100 * d.value), colours, reference: 0, suggested: {suggestedMin: -5, suggestedMax: 5},
        tips: differences.map((d) => `${d.text} points, keeps ${share(d)}; ${kVerdicts[d.verdict][1]}`)}) : null,
      table: {columns: ['Configuration', 'Change in points', 'Accuracy kept', 'Verdict', 'Could have shown'],
        rows: variants.map((v, i) => [v.label, [differences[i].text, differences[i].value], [share(differences[i]), differences[i].value], kVerdicts[differences[i].verdict][1], differences[i].detectable])},
    }));
    flips.push(figure(`Answers that flipped: ${task}`, {
      empty, height: rowsHeight(names.length), legend: [['right → wrong', css('--bad')], ['wrong → right', css('--good')]],
      words: variants.map((v, i) => `${v.label}: ${differences[i].lost} right to wrong, ${differences[i].won} wrong to right`).join('; '),
      config: names.length ? barConfig(names, [
        {label: 'right → wrong', values: differences.map((d) => -d.lost), colours: css('--bad'), tips: differences.map((d) => `${d.lost} of ${d.pairs} right → wrong`)},
        {label: 'wrong → right', values: differences.map((d) => d.won), colours: css('--good'), tips: differences.map((d) => `${d.won} of ${d.pairs} wrong → right`)},
      ], {title: 'answers', reference: 0, counts: true}) : null,
      table: {columns: ['Configuration', 'Right → wrong', 'Wrong → right', 'Rows'],
        rows: variants.map((v, i) => [v.label, ...['lost', 'won', 'pairs'].map((k) => [String(differences[i][k]), differences[i][k]])])},
    }));
  }
  return [kept, flips];
}

const kLatencyColumns = [['min', 'Least'], ['whisker_low', 'Line from'], ['p25', 'p25'], ['p50', 'p50'], ['p75', 'p75'],
  ['whisker_high', 'Line to'], ['p90', 'p90'], ['p95', 'p95'], ['p99', 'p99'], ['max', 'Most']];
const hasBox = (latency) => ['whisker_low', 'p25', 'p75', 'whisker_high'].every((k) => isNumber(latency[k]));

function latencyFigure(model, redraw) {
  const kinds = [];
  for (const task of state.study.tasks)
    for (const kind of ['response', 'first token', 'per token'])
      if (model.variants.some((v) => ((cellOf(v, task) || {}).latency || {})[kind])) kinds.push([`${task}|${kind}`, `${task}: ${kind}`, (v) => ((cellOf(v, task) || {}).latency || {})[kind]]);
  for (const [name, words] of [['decode', 'bench: token'], ['prefill', 'bench: whole prompt']])
    if (model.variants.some((v) => v[name] && v[name].latency)) kinds.push([name, words, (v) => v[name] && v[name].latency]);
  const title = 'Latency';
  if (!kinds.length) return figure(title, {empty: 'No latency of this model is stored yet.'});
  const key = `latency ${state.model}`;
  const controls = selector(key, 'Of', kinds.map(([k, words]) => [k, words]), redraw);
  const read = kinds.find(([k]) => k === state.selects[key])[2];
  const variants = model.variants.filter((v) => read(v) && isNumber(read(v).p50));
  const p = variants.map(read);
  return figure(title, {
    controls, height: rowsHeight(variants.length),
    note: 'Box: the middle half; bar in it: the median; dot: the mean; lines: to the furthest within 1.5 lengths of the box.' +
      (p.every(hasBox) ? '' : ' Where there is no box, an older version measured and kept no quartiles: the line goes from the median to the 99th percentile.'),
    words: variants.map((v, i) => `${v.label}: median ${digits(p[i].p50)} ms, 99th percentile ${digits(p[i].p99)} ms`).join('; '),
    config: bandConfig(variants.map((v) => v.label), p.map((q) => hasBox(q) ? [q.p25, q.p75] : [q.p50, q.p50]), {
      title: 'ms', marks: p.map((q) => q.mean), medians: p.map((q) => q.p50), aroundBar: true,
      whiskers: p.map((q) => hasBox(q) ? [q.whisker_low, q.whisker_high] : [q.p50, q.p99]), colours: variants.map(colourOf),
      min: 0, suggested: {suggestedMax: 1.02 * Math.max(...p.flatMap((q) => [q.mean, hasBox(q) ? q.whisker_high : q.p99]).filter(isNumber))},
      tips: p.map((q) => `quartiles ${digits(q.p25)}, ${digits(q.p50)}, ${digits(q.p75)}; p95 ${digits(q.p95)}, p99 ${digits(q.p99)}, most ${digits(q.max)}; mean ${digits(q.mean)} ms`)}),
    table: {columns: ['Configuration', 'Mean ms', ...kLatencyColumns.map(([, words]) => words)],
      rows: variants.map((v, i) => [v.label, ...['mean', ...kLatencyColumns.map(([k]) => k)].map((k) => [digits(p[i][k]), p[i][k]])])},
  });
}

function throughputFigure(model, name, title, words) {
  const variants = model.variants.filter((v) => v[name]);
  const baseline = baselineOf(model);
  const rates = variants.map((v) => v[name]);
  return figure(title, {
    empty: 'Not measured: the study ran no bench of this model yet.', height: rowsHeight(variants.length),
    note: `${words} Bars: mean of the repetitions, whiskers ± one standard deviation; dashed: the baseline.`,
    words: variants.map((v, i) => `${v.label}: ${digits(rates[i].mean)}`).join('; '),
    config: variants.length ? barConfig(variants.map((v) => v.label), [{
      values: rates.map((r) => r.mean), colours: variants.map(colourOf), whiskers: rates.map((r) => [r.mean - r.sd, r.mean + r.sd]),
      tips: rates.map((r) => `${digits(r.mean)} ± ${digits(r.sd)} tokens/s${baseline && baseline[name] ? `, ×${digits(r.mean / baseline[name].mean)} of the baseline` : ''}`)}],
      {title: 'tokens/s', reference: baseline && baseline[name] ? baseline[name].mean : undefined}) : null,
    table: {columns: ['Configuration', 'Tokens/s', '± sd'], rows: variants.map((v, i) => [v.label, [digits(rates[i].mean), rates[i].mean], [digits(rates[i].sd), rates[i].sd]])},
  });
}

function memoryFigure(model, redraw) {
  const cells = ['bench', ...state.study.tasks].filter((t) => model.variants.some((v) => (cellOf(v, t) || {}).memory));
  const title = 'Memory by part';
  if (!cells.length) return figure(title, {empty: 'No memory of this model is stored yet.'});
  const key = `memory ${state.model}`;
  const controls = selector(key, 'Of the process of', cells.map((t) => [t, t]), redraw);
  const variants = model.variants.filter((v) => (cellOf(v, state.selects[key]) || {}).memory);
  const memory = variants.map((v) => cellOf(v, state.selects[key]).memory);
  const parts = [['weights', 'weights', '--part1'], ['kv_cache', 'KV cache', '--part2'], ['workspace', 'workspace', '--part3'], ['other', 'other', '--part4']];
  return figure(title, {
    controls, height: rowsHeight(variants.length), legend: parts.map(([, words, colour]) => [words, css(colour)]),
    note: 'Peak memory of a process of its own; other is what the parts do not explain: program, libraries, texts.',
    words: variants.map((v, i) => `${v.label}: ${megabytes(memory[i].peak)}`).join('; '),
    config: barConfig(variants.map((v) => v.label), parts.map(([k, words, colour]) => ({
      label: words, values: memory.map((m) => m[k] / 1e6), colours: css(colour), tips: memory.map((m) => `${words} ${megabytes(m[k])} of ${megabytes(m.peak)}`)})), {title: 'MB'}),
    table: {columns: ['Configuration', 'Weights MB', 'KV cache', 'Workspace', 'Other', 'Peak RSS'],
      rows: variants.map((v, i) => [v.label, ...['weights', 'kv_cache', 'workspace', 'other', 'peak'].map((k) => [digits(memory[i][k] / 1e6), memory[i][k]])])},
  });
}

function bitsFigure(model) {
  const kParts = [['body', 'blocks', '--part1'], ['embedding', 'embedding', '--part2'], ['head', 'head', '--part3'], ['other', 'norms and biases', '--part4']];
  const variants = model.variants.filter((v) => v.parts);
  const own = (part) => part && part.parameters > 0 ? 8 * part.bytes / part.parameters : undefined;
  const share = (v, k) => v.parts[k] ? 8 * v.parts[k].bytes / v.parameters : 0;
  return figure('Bits per weight by part', {
    empty: 'Not stored: the study was made by a version that did not keep the parts of a model.', height: rowsHeight(variants.length),
    legend: kParts.map(([, words, colour]) => [words, css(colour)]),
    note: 'Bits in memory over all parameters; the parts add up to the whole.',
    words: variants.map((v) => `${v.label}: ${digits(kParts.reduce((s, [k]) => s + share(v, k), 0))}`).join('; '),
    config: variants.length ? barConfig(variants.map((v) => v.label), kParts.map(([k, words, colour]) => ({
      label: words, values: variants.map((v) => share(v, k)), colours: css(colour),
      tips: variants.map((v) => `${words}: ${digits(share(v, k))} of the whole; ${digits(own(v.parts[k]))} bits for each of its weights`)})), {title: 'bits'}) : null,
    table: {columns: ['Configuration', 'Blocks', 'Embedding', 'Head', 'Norms, biases', 'Whole file'],
      rows: variants.map((v) => [v.label, ...kParts.map(([k]) => [digits(own(v.parts[k])), own(v.parts[k])]), [digits(v.bits_per_weight), v.bits_per_weight]])},
  });
}

function modelFigures(model, redraw) {
  const [kept, flips] = accuracyFigures(model);
  return [
    el('h4', {class: 'group'}, 'Size and quality'),
    el('div', {class: 'charts'}, sizeFigure(model, redraw)),
    el('div', {class: 'charts three'}, kept), el('div', {class: 'charts three'}, flips),
    el('h4', {class: 'group'}, 'Speed and memory'),
    el('div', {class: state.printing ? 'charts three' : 'charts'}, throughputFigure(model, 'decode', 'Decode', 'Tokens generated one after the other.'),
      throughputFigure(model, 'prefill', 'Prefill', 'Tokens of a prompt.'), latencyFigure(model, redraw), memoryFigure(model, redraw), bitsFigure(model)),
    ...sensitivityParts(model, redraw), ...quantizationParts(model, redraw)];
}

function modelSection() {
  const {models} = state.study;
  const shown = state.model = Math.max(0, Math.min(state.model, models.length - 1));
  const picker = el('div', {class: 'picker', role: 'group', 'aria-label': 'Model'}, models.map((model, i) =>
    el('button', {type: 'button', 'aria-pressed': String(i === shown), onclick: () => showModel(i)}, model.name)));
  const parts = [];
  for (const i of models.keys()) {
    if (!state.printing && i !== shown) continue;
    state.model = i;  // figures remember their choices by it
    parts.push(el('h3', {class: 'name'}, models[i].name), ...modelFigures(models[i], drawAll));
  }
  state.model = shown;
  return section('models', 'Model by model', picker, el('div', {}, parts));
}
