// Runs at the end of a report, in a frame of its own: looks for what a reader would see as broken, and posts the list
// to the page around the frame. What is drawn inside the timeline is meant to be cut off at its edges.
(function () {
  'use strict';
  var problems = [];

  function each(selector, look) {
    Array.prototype.forEach.call(document.querySelectorAll(selector), look);
  }
  function describe(element) {
    return element.tagName.toLowerCase() + (element.className.baseVal || element.className ? '.' : '') +
      (element.className.baseVal || element.className || '') + ' "' + element.textContent.trim().slice(0, 40) + '"';
  }
  function isShown(element) {
    return element.getClientRects().length > 0;
  }

  // Nothing leaves the page, and nothing has to be scrolled sideways to be read.
  if (document.documentElement.scrollWidth > innerWidth + 1)
    problems.push('the page is ' + document.documentElement.scrollWidth + ' px wide, the window ' + innerWidth);
  each('body *', function (element) {
    if (element.closest('.plot') || element.id === 'tip' || !isShown(element)) return;
    var box = element.getBoundingClientRect();
    if (box.right > innerWidth + 1 || box.left < -1) problems.push('leaves the page: ' + describe(element));
    if (element.closest('svg')) return;
    if (element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).display !== 'inline')
      problems.push('is cut off or has to be scrolled: ' + describe(element));
  });

  // Every class has a rule, every swatch a colour, every shape of the timeline a fill.
  var rules = '';
  Array.prototype.forEach.call(document.styleSheets, function (sheet) {
    Array.prototype.forEach.call(sheet.cssRules, function add(rule) {
      rules += ' ' + (rule.selectorText || '');
      Array.prototype.forEach.call(rule.cssRules || [], add);
    });
  });
  each('[class]', function (element) {
    element.classList.forEach(function (name) {
      if (name !== 'live' && !new RegExp('\\.' + name + '(?![\\w-])').test(rules))
        problems.push('class without a rule: ' + describe(element));
    });
  });
  each('.key, .bar i, .gpu', function (element) {
    var style = getComputedStyle(element);
    if (isShown(element) && style.backgroundColor === 'rgba(0, 0, 0, 0)' && style.backgroundImage === 'none')
      problems.push('swatch without a colour: ' + describe(element) + ' ' + element.parentNode.textContent);
  });
  each('.plot rect[class], .plot path[class]', function (element) {
    if (getComputedStyle(element).fill === 'rgb(0, 0, 0)') problems.push('drawn in black: ' + describe(element));
  });

  // Labels of the timeline are whole and do not run into each other.
  var labels = Array.prototype.map.call(document.querySelectorAll('.label'), function (element) {
    var box = element.getBoundingClientRect();
    if (element.textContent.indexOf('…') >= 0) problems.push('cut off: ' + element.textContent);
    return { text: element.textContent, left: box.left, right: box.right, top: box.top };
  });
  labels.sort(function (a, b) { return a.top - b.top || a.left - b.left; });
  labels.forEach(function (label, i) {
    var next = labels[i + 1];
    if (next && Math.abs(next.top - label.top) < 2 && next.left < label.right)
      problems.push('labels overlap: ' + label.text + ', ' + next.text);
  });

  // Tables, pictures and headings keep a distance.
  var blocks = Array.prototype.filter.call(document.querySelectorAll('table, h2, h3, .timeline, figure'), isShown);
  blocks.forEach(function (one, i) {
    blocks.slice(i + 1, i + 4).forEach(function (other) {
      var a = one.getBoundingClientRect(), b = other.getBoundingClientRect();
      var across = Math.max(b.left - a.right, a.left - b.right), down = Math.max(b.top - a.bottom, a.top - b.bottom);
      if (!one.contains(other) && across < 12 && down < (/^H/.test(one.tagName) ? 0 : 8))
        problems.push('too close: ' + describe(one) + ', ' + describe(other));
    });
  });

  // Text stands out from its ground: contrast as WCAG defines it.
  function parse(colour) {
    var numbers = colour.match(/[\d.]+/g).map(Number);
    if (/^color/.test(colour)) numbers = numbers.map(function (n, i) { return i < 3 ? n * 255 : n; });
    return { r: numbers[0], g: numbers[1], b: numbers[2], a: numbers.length > 3 ? numbers[3] : 1 };
  }
  function luminance(c) {
    var parts = [c.r, c.g, c.b].map(function (v) {
      v /= 255;
      return v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4);
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  }
  function groundOf(element) {
    for (; element; element = element.parentElement) {
      var colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.a > 0.5) return colour;
    }
    return { r: 255, g: 255, b: 255, a: 1 };
  }
  each('body *', function (element) {
    var owns = Array.prototype.some.call(element.childNodes, function (node) {
      return node.nodeType === 3 && node.textContent.trim();
    });
    if (!owns || element.closest('svg, script') || !isShown(element)) return;
    var light = luminance(parse(getComputedStyle(element).color)), ground = luminance(groundOf(element));
    var contrast = (Math.max(light, ground) + 0.05) / (Math.min(light, ground) + 0.05);
    if (contrast < 4.5) problems.push('contrast ' + contrast.toFixed(1) + ': ' + describe(element));
  });
  parent.postMessage({ name: window.name, problems: problems, labels: labels.length }, '*');
})();
