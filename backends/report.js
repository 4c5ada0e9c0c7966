// Labels of table cells for narrow windows; zoom, labels and tooltips of the timeline. The page is complete without
// this script.
(function () {
  'use strict';
  // A narrow window shows the rows of a wide table as lists: every cell takes the heading of its column along.
  Array.prototype.forEach.call(document.querySelectorAll('table.stack'), function (table) {
    var headings = [];
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (cell) {
      for (var i = 0; i < cell.colSpan; i++) headings.push(cell.innerText.replace(/\s+/g, ' ').trim());
    });
    Array.prototype.forEach.call(table.tBodies[0].rows, function (row) {
      Array.prototype.forEach.call(row.cells, function (cell, column) {
        if (headings[column]) cell.dataset.label = headings[column];
      });
    });
  });
  document.body.classList.add('live');

  var timeline = document.querySelector('.timeline');
  if (!timeline) return;
  var plot = timeline.querySelector('.plot'), steps = plot.querySelector('.steps'), axis = plot.querySelector('.axis');
  var whole = steps.viewBox.baseVal.width, height = steps.viewBox.baseVal.height;
  var seconds = Number(timeline.dataset.seconds);
  var from = 0, width = whole; // the window, in the units of the view box
  var labels_max = 400, spot = null, queued = false;
  var bars = Array.prototype.map.call(steps.querySelectorAll('.schedule rect'), takeTitle);
  var buffers = Array.prototype.map.call(steps.querySelectorAll('.buffers rect'), takeTitle);
  var alive_max = 14;

  // The page's own tooltip replaces the browser's.
  function takeTitle(rect) {
    function number(name) {
      return Number(rect.getAttribute(name));
    }
    var title = rect.querySelector('title');
    rect.tip = title.textContent;
    rect.removeChild(title);
    var name = rect.tip.split('\n')[0], op = name.split(' ')[0];
    var layer = rect.tip.split('\n')[1].match(/layer (\d+)/);
    return {
      x: number('x'), width: number('width'), height: number('height'), middle: number('y') + number('height') / 2,
      name: name, bytes: number('data-b'),
      // What the bar may be labelled with: the first that fits.
      labels: layer ? [name + ' L' + layer[1], op + ' L' + layer[1], name, op, 'L' + layer[1]] : [name, op]
    };
  }
  var tip = document.createElement('div');
  tip.id = 'tip';
  document.body.appendChild(tip);
  var measure = document.createElement('canvas').getContext('2d'), widths = {};
  measure.font = '11px ' + getComputedStyle(timeline).fontFamily;
  var print_pixels = 820; // of the plot on paper, at least

  function formatTime(time, digits) {
    var units = [['s', 1], ['ms', 1e-3], ['us', 1e-6], ['ns', 1e-9]];
    if (time === 0) return '0 s';
    var unit = units.find(function (u) { return Math.abs(time) >= u[1] * 0.9999; }) || units[3];
    return Number((time / unit[1]).toPrecision(digits)) + ' ' + unit[0];
  }

  function formatBytes(bytes) {
    var units = [['TB', 1e12], ['GB', 1e9], ['MB', 1e6], ['kB', 1e3], ['B', 1]];
    var unit = units.find(function (u) { return bytes >= u[1] * 0.9995; }) || units[4];
    return Number((bytes / unit[1]).toPrecision(3)) + ' ' + unit[0];
  }

  // What is live at x, the largest first.
  function memoryAt(x) {
    var alive = buffers.filter(function (b) { return b.x <= x && x < b.x + b.width; });
    alive.sort(function (a, b) { return b.bytes - a.bytes; });
    function line(bytes, text) {
      return '\n' + formatBytes(bytes).padStart(8) + '  ' + text;
    }
    function sum(list) {
      return list.reduce(function (bytes, b) { return bytes + b.bytes; }, 0);
    }
    var rest = alive.slice(alive_max);
    return formatBytes(sum(alive)) + ' live at ' + formatTime(x / whole * seconds, 4) +
      alive.slice(0, alive_max).map(function (b) { return line(b.bytes, b.name); }).join('') +
      (rest.length ? line(sum(rest), 'in ' + rest.length + ' smaller') : '');
  }

  function add(name, attributes, text) {
    var element = document.createElementNS('http://www.w3.org/2000/svg', name);
    Object.keys(attributes).forEach(function (key) { element.setAttribute(key, attributes[key]); });
    if (text !== undefined) element.textContent = text;
    axis.appendChild(element);
  }

  // Positions are shares of the width, so that they hold when the page is printed at another.
  function percent(x) {
    return (100 * (x - from) / width).toFixed(4) + '%';
  }

  function drawTicks(pixels) {
    var first = seconds * from / whole, shown = seconds * width / whole;
    var least = shown / Math.max(2, pixels / 110), power = Math.pow(10, Math.floor(Math.log10(least)));
    var tick = power * [1, 2, 5, 10].find(function (m) { return m * power >= least * 0.9999; });
    var digits = Math.max(3, Math.ceil(Math.log10((first + shown) / tick)) + 1);
    for (var i = Math.ceil(first / tick - 1e-9); i * tick <= first + shown; i++) {
      var x = percent(i * tick / seconds * whole), late = i * tick - first > shown * (1 - 60 / pixels);
      add('line', { x1: x, x2: x, y1: 16, y2: height });
      add('text', { x: x, dx: late ? -3 : 2, y: 11, 'text-anchor': late ? 'end' : 'start' },
        formatTime(i * tick, digits));
    }
  }

  function textWidth(text) {
    if (!(text in widths)) widths[text] = measure.measureText(text).width;
    return widths[text];
  }

  function drawLabels(pixels) {
    var count = 0;
    for (var i = 0; i < bars.length && count < labels_max; i++) {
      var bar = bars[i], left = Math.max(from, bar.x), right = Math.min(from + width, bar.x + bar.width);
      var space = (right - left) / width * pixels - 8;
      if (space < 10) continue;
      var label = bar.labels.find(function (text) { return textWidth(text) <= space; });
      if (!label) continue;
      var x = percent(left), half = bar.height / 2;
      add('line', { 'class': 'edge', x1: x, x2: x, y1: bar.middle - half, y2: bar.middle + half });
      add('text', { 'class': 'label', x: x, dx: 4, y: bar.middle + 4 }, label);
      count++;
    }
  }

  function draw() {
    drawAt(plot.clientWidth);
  }

  function drawAt(pixels) {
    queued = false;
    if (!pixels || !seconds) return;
    steps.setAttribute('viewBox', from + ' 0 ' + width + ' ' + height);
    axis.textContent = '';
    drawTicks(pixels);
    drawLabels(pixels);
  }

  function show(newFrom, newWidth) {
    width = Math.min(whole, Math.max(whole / 20000, newWidth));
    from = Math.min(whole - width, Math.max(0, newFrom));
    if (!queued) {
      queued = true;
      requestAnimationFrame(draw);
    }
  }

  plot.addEventListener('wheel', function (event) {
    var box = plot.getBoundingClientRect(), at = (event.clientX - box.left) / box.width;
    var factor = Math.pow(1.0015, event.deltaY * (event.deltaMode === 1 ? 30 : 1));
    var next = Math.min(whole, Math.max(whole / 20000, width * factor));
    if (next === width) return; // nothing left to zoom: let the page scroll
    event.preventDefault();
    show(from + at * (width - next), next);
  }, { passive: false });
  plot.addEventListener('pointerdown', function (event) {
    if (event.button !== 0) return;
    spot = { x: event.clientX, from: from };
    plot.setPointerCapture(event.pointerId);
    steps.classList.add('held');
  });
  plot.addEventListener('pointermove', function (event) {
    if (spot) show(spot.from - (event.clientX - spot.x) / plot.clientWidth * width, width);
    point(event);
  });
  ['pointerup', 'pointercancel'].forEach(function (name) {
    plot.addEventListener(name, function () {
      spot = null;
      steps.classList.remove('held');
    });
  });
  plot.addEventListener('dblclick', function () { show(0, whole); });
  plot.addEventListener('pointerleave', function () { tip.style.display = 'none'; });

  function point(event) {
    var over = event.target.classList && event.target.classList.contains('over'), box = plot.getBoundingClientRect();
    var text = !spot && (over ? memoryAt(from + (event.clientX - box.left) / box.width * width) : event.target.tip);
    tip.style.display = text ? 'block' : 'none';
    if (!text) return;
    tip.textContent = text;
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + 'px';
    tip.style.top = Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8) + 'px';
  }

  addEventListener('resize', draw);
  addEventListener('beforeprint', function () { drawAt(Math.min(plot.clientWidth, print_pixels)); });
  addEventListener('afterprint', draw);
  draw();
})();
