"""The style and the filter of a report's page."""

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--soft:#57606a;--line:#d0d7de;--card:#f6f8fa;--warn:#fff4d6;
--warnline:#c98a00;--focus:#0a5bd3;--before:#8a94a0;--after:#c2410c;--c0:#0a5bd3;--c1:#c2410c;--c2:#0f7a3d;--c3:#8424b8;
--c4:#b3127a;--c5:#00757f;--c6:#7a5c00;--c7:#4b5563}
@media(prefers-color-scheme:dark){:root{--bg:#0e1116;--fg:#e6edf3;--soft:#9aa4af;--line:#30363d;--card:#161b22;
--warn:#33270a;--warnline:#e0a526;--focus:#79b8ff;--before:#7d8792;--after:#ff9259;--c0:#79b8ff;--c1:#ff9259;--c2:#5bd688;
--c3:#d3a1ff;--c4:#ff8ac6;--c5:#5cd5de;--c6:#e3c45c;--c7:#b4bcc6}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem clamp(.75rem,3vw,2rem) 4rem;max-width:72rem;background:var(--bg);color:var(--fg);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:.5rem 0 .25rem}h2{font-size:1.15rem;margin:2rem 0 .5rem}
h3{font-size:1rem;margin:1.25rem 0 .4rem}
p{margin:.4rem 0}.soft,figcaption,caption{color:var(--soft)}
.big{font-size:1.15rem}
.warnings{background:var(--warn);border-left:.3rem solid var(--warnline);padding:.6rem 1rem;margin:1rem 0;
border-radius:.3rem}.warnings h2{margin:.1rem 0 .3rem}.warnings ul{margin:.2rem 0;padding-left:1.2rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}
td:first-child,th:first-child{padding-left:0}
td.wrap{white-space:normal;min-width:12rem}
fieldset{border:1px solid var(--line);border-radius:.4rem;display:flex;flex-wrap:wrap;gap:.2rem .9rem;margin:.5rem 0;
padding:.3rem .8rem .5rem}
label{display:inline-flex;align-items:center;gap:.4rem;min-height:2rem;cursor:pointer}
input{width:1.1rem;height:1.1rem;accent-color:var(--focus)}
:focus-visible{outline:3px solid var(--focus);outline-offset:2px;border-radius:.2rem}
.swatch{width:1.1rem;height:.25rem;border-radius:.1rem;background:var(--c)}
svg{width:100%;max-width:44rem;height:auto;display:block}
svg text{fill:var(--soft);font-size:12px}.grid{stroke:var(--line)}
.curve{fill:none;stroke:var(--c);stroke-width:2}.dot{fill:var(--c)}.band{fill:var(--c);opacity:.16}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr));gap:1rem}
.card{margin:0;background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.7rem}
.three{display:grid;grid-template-columns:repeat(3,1fr);gap:.4rem}
.three figure{margin:0;min-width:0}.three img{width:100%;aspect-ratio:1;object-fit:contain;image-rendering:pixelated;
display:block;border-radius:.2rem;background:#808080}
.three figcaption{font-size:.75rem;line-height:1.3;margin-top:.15rem}
.answers{display:grid;grid-template-columns:auto 1fr auto;gap:.1rem .5rem;font-size:.8rem;margin-top:.5rem;
align-items:center}.answers b{font-weight:600}
.bars{display:grid;gap:2px}.bar{display:block;height:.45rem;border-radius:.1rem;min-width:1px}
.before{background:var(--before)}.after{background:var(--after)}
.card h3{margin:0 0 .4rem;font-size:.9rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;font-size:.92rem}
dd{margin:0;overflow-wrap:anywhere}
[hidden]{display:none!important}
@media(max-width:40rem){svg text{font-size:20px}}
@media print{fieldset{display:none}}
"""

SCRIPT = """
const boxes=[...document.querySelectorAll('input[data-filter]')];
function apply(){
const on={attack:new Set(),eps:new Set()};
for(const box of boxes)if(box.checked)on[box.dataset.filter].add(box.value);
let shown=0;
for(const each of document.querySelectorAll('[data-attack]')){
const hide=!on.attack.has(each.dataset.attack)||('eps'in each.dataset&&!on.eps.has(each.dataset.eps));
if(each instanceof SVGElement)each.style.display=hide?'none':'';else each.hidden=hide;
if(!hide&&each.classList.contains('card'))shown++;
}
const count=document.getElementById('count');
if(count)count.textContent=shown+' shown';
}
for(const box of boxes)box.addEventListener('change',apply);
document.getElementById('filter').hidden=false;
apply();
"""
