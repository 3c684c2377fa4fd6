// Charts: what Chart.js does not draw itself (intervals, marks, labels beside points), and a frame that gives
// each chart a title, words for screen readers, and its numbers as a table.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const kMethodColours = ['--c1', '--c2', '--c3', '--c4', '--c5', '--c6'];

// The same method has the same colour in every chart.
function colourOf(variant) {
  if (variant.baseline) return css('--c-baseline');
  const methods = [];
  for (const model of state.study.models)
    for (const v of model.variants)
      if (!v.baseline && !methods.includes(v.method)) methods.push(v.method);
  return css(kMethodColours[methods.indexOf(variant.method) % kMethodColours.length]);
}
const faded = (colour, percent) => {
  const hex = Math.round(2.55 * percent).toString(16).padStart(2, '0');
  return colour + hex;
};

// dataset.whiskers: [low, high] of each point along dataset.whiskerAxis; dataset.medians: a line across each bar;
// dataset.marks: a dot of each bar.
const intervalPlugin = {
  id: 'intervals',
  afterDatasetsDraw(chart) {
    const {ctx, chartArea} = chart;
    ctx.save();
    ctx.beginPath();
    ctx.rect(chartArea.left - 1, chartArea.top - 6, chartArea.width + 8, chartArea.height + 12);
    ctx.clip();
    chart.data.datasets.forEach((dataset, d) => {
      const meta = chart.getDatasetMeta(d);
      if (meta.hidden) return;
      const axis = dataset.whiskerAxis || 'x';
      const scale = chart.scales[axis];
      ctx.lineWidth = 1.6;
      (dataset.whiskers || []).forEach((range, i) => {
        const point = meta.data[i];
        if (!range || !point || !isNumber(range[0]) || !isNumber(range[1])) return;
        ctx.strokeStyle = (dataset.whiskerColours || [])[i] || css('--text');
        const low = scale.getPixelForValue(range[0]), high = scale.getPixelForValue(range[1]);
        const cap = dataset.whiskerCap ?? 4;
        ctx.beginPath();
        if (axis === 'y') {
          ctx.moveTo(point.x, low); ctx.lineTo(point.x, high);
          ctx.moveTo(point.x - cap, low); ctx.lineTo(point.x + cap, low);
          ctx.moveTo(point.x - cap, high); ctx.lineTo(point.x + cap, high);
        } else {
          // Around a bar the line stops at it.
          const [left, right] = dataset.aroundBar ? [point.base, point.x].sort((a, b) => a - b) : [high, high];
          ctx.moveTo(low, point.y); ctx.lineTo(left, point.y);
          ctx.moveTo(right, point.y); ctx.lineTo(high, point.y);
          ctx.moveTo(high, point.y - cap); ctx.lineTo(high, point.y + cap);
          if (!dataset.openLow) { ctx.moveTo(low, point.y - cap); ctx.lineTo(low, point.y + cap); }
        }
        ctx.stroke();
      });
      (dataset.medians || []).forEach((value, i) => {
        const bar = meta.data[i];
        if (!isNumber(value) || !bar) return;
        const x = scale.getPixelForValue(value);
        ctx.strokeStyle = (dataset.whiskerColours || [])[i] || css('--text');
        ctx.lineWidth = 2.5;
        ctx.beginPath();
        ctx.moveTo(x, bar.y - bar.height / 2); ctx.lineTo(x, bar.y + bar.height / 2);
        ctx.stroke();
      });
      (dataset.marks || []).forEach((value, i) => {
        const bar = meta.data[i];
        if (!isNumber(value) || !bar) return;
        ctx.beginPath();
        ctx.fillStyle = (dataset.markColours || [])[i] || css('--text');
        ctx.strokeStyle = css('--card');
        ctx.arc(scale.getPixelForValue(value), bar.y, 4.5, 0, 2 * Math.PI);
        ctx.fill();
        ctx.stroke();
      });
    });
    ctx.restore();
  },
};

// dataset.labels: words beside each point of a scatter, moved apart where they would touch.
const labelPlugin = {
  id: 'pointLabels',
  afterDatasetsDraw(chart) {
    const {ctx, chartArea} = chart;
    ctx.save();
    ctx.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    ctx.textBaseline = 'middle';
    const taken = [];
    const free = (box) => box.left >= chartArea.left && box.right <= chart.width && box.top >= 0 &&
      box.bottom <= chart.height &&
      taken.every((t) => box.right < t.left || box.left > t.right || box.bottom < t.top || box.top > t.bottom);
    const points = [];
    chart.data.datasets.forEach((dataset, d) => (dataset.labels || []).forEach((label, i) => {
      const point = chart.getDatasetMeta(d).data[i];
      if (!label || !point) return;
      points.push([label, point, dataset.borderColor]);
      taken.push({left: point.x - 6, right: point.x + 6, top: point.y - 6, bottom: point.y + 6});
      const range = (dataset.whiskers || [])[i];
      if (dataset.whiskerAxis !== 'y' || !range || !range.every(isNumber)) return;
      const [top, bottom] = [range[1], range[0]].map((v) => chart.scales.y.getPixelForValue(v));
      taken.push({left: point.x - 5, right: point.x + 5, top, bottom});
    }));
    for (const [label, point, colour] of points) {
      const width = ctx.measureText(label).width;
      const places = [];
      for (const dy of [0, -13, 13, -26, 26, -39, 39, -52, 52])
        for (const dx of [10, -10 - width]) places.push([point.x + dx, point.y + dy]);
      const boxAt = ([x, y]) => ({left: x - 2, right: x + width + 2, top: y - 7, bottom: y + 7});
      const place = places.find((p) => free(boxAt(p)));
      if (!place) continue;  // its tooltip and the table name it
      taken.push(boxAt(place));
      ctx.fillStyle = colour || css('--text');
      ctx.fillText(label, place[0], place[1]);
    }
    ctx.restore();
  },
};

// A vertical line at options.plugins.reference.value: the baseline's.
const referencePlugin = {
  id: 'reference',
  beforeDatasetsDraw(chart, _, options) {
    if (!isNumber(options.value)) return;
    const {ctx, chartArea, scales} = chart;
    const x = scales.x.getPixelForValue(options.value);
    ctx.save();
    ctx.strokeStyle = css('--muted');
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    ctx.moveTo(x, chartArea.top);
    ctx.lineTo(x, chartArea.bottom);
    ctx.stroke();
    ctx.restore();
  },
};
Chart.register(intervalPlugin, labelPlugin, referencePlugin);

function axis(title, more = {}) {
  return {
    title: {display: Boolean(title), text: title, color: css('--muted'), font: {size: 12}},
    grid: {color: css('--line'), drawBorder: false},
    ticks: {color: css('--muted'), maxRotation: 0, autoSkipPadding: 16, callback(value) {
      return this.type === 'category' ? this.getLabelForValue(value) : digits(value, 4);
    }},
    ...more,
  };
}

// The variants' names on the vertical axis: no grid, every name.
const nameAxis = () => axis('', {grid: {display: false}, ticks: {color: css('--text'), autoSkip: false, font: {size: 12}}});

const drawn = new Set();  // charts on the page
function forgetCharts() {
  drawn.forEach((chart) => chart.destroy());
  drawn.clear();
}

// A figure: title, note, chart or the reason why there is none, and its numbers. `config` null: `empty` says why.
function figure(title, {note, empty, legend, height, config, table, words, className, controls}) {
  const node = el('figure', {class: `card ${className || ''}`, 'aria-label': title}, el('h5', {}, title), note ? el('p', {class: 'note'}, note) : null,
                  controls ? el('div', {class: 'controls'}, controls) : null);
  if (!config) {
    node.append(el('p', {class: 'empty'}, empty));
    return node;
  }
  if (legend) node.append(el('ul', {class: 'legend', 'aria-hidden': 'true'},
    legend.map(([text, colour]) => el('li', {}, el('i', {style: `background:${colour}`}), text))));
  const canvas = el('canvas', {role: 'img', 'aria-label': `${title}. ${words || note || ''} The numbers follow as a table.`});
  node.append(el('div', {class: 'canvas', style: `height:${height}px`}, canvas));
  node.append(fold(`${title} ${state.model}`, 'Numbers', 'fold',
    dataTable(`chart ${title}`, title, table.columns.map((t, i) => ({title: t, right: i > 0})), table.rows)));
  // Drawn once the canvas has a place and a size.
  queueMicrotask(() => {
    if (canvas.isConnected) drawn.add(new Chart(canvas, config));
  });
  return node;
}

function baseOptions(x, y, more = {}) {
  return {
    responsive: true,
    maintainAspectRatio: false,
    animation: false,
    layout: {padding: {right: 10, top: 4}},
    scales: {x, y},
    interaction: {mode: 'nearest', intersect: false, axis: 'xy'},
    plugins: {
      legend: {display: false},
      reference: {value: more.reference},
      tooltip: {
        backgroundColor: css('--text'), titleColor: css('--bg'), bodyColor: css('--bg'), displayColors: false, padding: 10,
        callbacks: {
          title: (items) => (items[0].dataset.names || items[0].chart.data.labels || [])[items[0].dataIndex] || '',
          label: (item) => (item.dataset.tips || [])[item.dataIndex] || item.formattedValue,
        },
      },
    },
    ...more.options,
  };
}

const rowsHeight = (count, extra = 56) => Math.max(120, (state.printing ? 22 : 30) * count + extra);  // paper is dear

// A row a variant: a band from low to high with a dot at the value.
function bandConfig(names, bands, {title, marks, medians, colours, tips, whiskers, aroundBar, reference, suggested, min}) {
  return {
    type: 'bar',
    data: {labels: names, datasets: [{
      data: bands, names, tips, marks, medians, whiskers, aroundBar, openLow: !aroundBar, markColours: colours, whiskerColours: colours,
      backgroundColor: colours.map((c) => faded(c, 32)), borderRadius: 4, borderSkipped: false, barThickness: 12, minBarLength: 2,
    }]},
    options: baseOptions(axis(title, {...suggested, min}), nameAxis(),
      {reference, options: {indexAxis: 'y', interaction: {mode: 'nearest', intersect: false, axis: 'y'}}}),
  };
}

// A row a variant: bars from 0, stacked where there are several series.
function barConfig(names, series, {title, reference, counts}) {
  // Counts go both ways from 0 in whole steps.
  const most = counts ? Math.max(3, ...series.flatMap((s) => s.values.map(Math.abs))) : 0;
  const scale = axis(title, {stacked: true, beginAtZero: true});
  if (counts) {
    Object.assign(scale, {suggestedMin: -most, suggestedMax: most});
    Object.assign(scale.ticks, {precision: 0, callback: (value) => digits(Math.abs(value), 6)});
  }
  return {
    type: 'bar',
    data: {labels: names, datasets: series.map((s) => ({
      label: s.label, data: s.values, names, tips: s.tips, backgroundColor: s.colours, whiskers: s.whiskers,
      borderRadius: 3, barThickness: 16, whiskerCap: 3,
    }))},
    options: baseOptions(scale, {...nameAxis(), stacked: true},
      {reference, options: {indexAxis: 'y', interaction: {mode: series.length > 1 ? 'point' : 'nearest', intersect: series.length > 1, axis: 'y'}}}),
  };
}
