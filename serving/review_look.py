"""How the review page looks, its keys, and the policy that lets a browser run these and nothing else."""

import base64
import hashlib

from serving.review_plot import PLOT_STYLE

STYLE = """
:root{color-scheme:light dark;--ground:#f4f5f7;--card:#fff;--ink:#191c22;--soft:#49515e;--line:#d8dce3;--edge:#7a8393;
--accent:#1f5fbf;--on:#fff;--tint:#e9f0fb;--yes:#1c6b3f;--no:#a8321a;--m1:#ffe08a;--m2:#b9d9ff;--m3:#c9efc2;--bar:#7d93b5}
@media(prefers-color-scheme:dark){:root{--ground:#12151a;--card:#1b1f26;--ink:#e9ebef;--soft:#b3bac6;--line:#343b47;
--edge:#8c95a5;--accent:#8ab4f8;--on:#10151d;--tint:#223048;--yes:#7fd6a2;--no:#ffab94;--m1:#6b5310;--m2:#234c7d;
--m3:#275c33;--bar:#7488a8}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
a{color:var(--accent);text-underline-offset:3px}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px;border-radius:4px}
h1:focus,h2:focus{outline:none}
.vh:not(:focus){position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.skip:focus{position:absolute;left:8px;top:8px;z-index:2;background:var(--card);padding:8px 12px}
header{background:var(--card);border-bottom:1px solid var(--line)}
.wide{max-width:1160px;margin:auto;padding:0 20px}
.top{display:flex;flex-wrap:wrap;align-items:center;gap:2px 20px;min-height:56px;padding:8px 0}
.brand{font-weight:650;letter-spacing:-.01em}
.brand span{color:var(--soft);font-weight:400}
.who{margin-left:auto;display:flex;flex-wrap:wrap;gap:4px 14px;align-items:center;color:var(--soft);font-size:14px}
.who form{display:inline}
.row{display:flex;flex-wrap:wrap;align-items:end;justify-content:space-between;gap:0 24px}
nav ul{display:flex;flex-wrap:wrap;gap:0 4px;list-style:none;margin:0;padding:0}
nav a{display:block;padding:9px 12px 8px;color:var(--soft);text-decoration:none;border-bottom:3px solid transparent}
nav a:hover{color:var(--ink)}
nav a[aria-current]{color:var(--ink);font-weight:600;border-color:var(--accent)}
.count{display:inline-block;min-width:1.6em;padding:0 6px;border-radius:9px;background:var(--tint);text-align:center;
font-size:13px;font-weight:500;color:var(--ink)}
dl.steps{display:flex;gap:18px;margin:8px 0 9px;font-size:14px;color:var(--soft)}
.steps div{display:flex;gap:6px}.steps dd{margin:0;order:-1;color:var(--ink);font-weight:650}
main.wide{display:grid;grid-template-columns:minmax(0,1fr) 340px;gap:20px;padding-top:20px;padding-bottom:40px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px}
.card+.card,.stack>*+*{margin-top:16px}.card>:last-child{margin-bottom:0}
h1{font-size:20px;line-height:1.3;margin:0}h2{font-size:15px;margin:0 0 10px}
.facts{color:var(--soft);font-size:14px;margin:4px 0 0;overflow-wrap:anywhere}
.text{margin:14px 0 0;padding:14px 16px;max-height:46vh;overflow:auto;border:1px solid var(--line);border-radius:8px;
background:var(--ground);white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;font-size:17px;line-height:1.6}
mark{color:inherit;background:var(--m1);border-radius:3px;padding:1px 0;unicode-bidi:isolate}
mark.e2{background:var(--m2)}mark.e3{background:var(--m3)}
mark sup,.key sup{font-size:11px;font-weight:700;line-height:0;padding:0 2px}
.said{display:flex;flex-wrap:wrap;gap:6px 12px;align-items:baseline;margin:18px 0 0;font-size:18px}
.said strong{font-size:20px;overflow-wrap:anywhere}
.chip{font-size:13px;padding:1px 9px;border:1px solid var(--edge);border-radius:11px;color:var(--soft);
white-space:nowrap}
fieldset{border:0;margin:16px 0 0;padding:0;min-width:0}legend{padding:0;color:var(--soft);font-size:14px}
.choices{display:flex;flex-wrap:wrap;align-items:end;gap:10px;margin-top:8px}div.find{flex:0 1 340px}
button,.button{font:inherit;min-height:44px;max-width:100%;padding:8px 14px;border:1px solid var(--edge);
border-radius:8px;background:var(--card);color:var(--ink);cursor:pointer;overflow-wrap:anywhere;text-align:left}
button:hover{background:var(--tint)}
button.main{background:var(--accent);border-color:var(--accent);color:var(--on);font-weight:600}
button.main:hover{filter:brightness(1.08)}
button.link{border:0;background:none;min-height:0;padding:4px 0;color:var(--accent);text-decoration:underline;
text-underline-offset:3px;font-size:inherit}
kbd{display:inline-block;min-width:1.5em;padding:0 5px;margin-left:7px;border:1px solid;border-radius:4px;
text-align:center;font:600 12px/1.5 ui-monospace,monospace;opacity:.85}
.after{display:flex;flex-wrap:wrap;gap:10px;align-items:center;margin-top:18px;padding-top:16px;
border-top:1px solid var(--line)}
.after p{margin:0;color:var(--soft);font-size:14px}.after p.keys{margin-left:auto}
@media(hover:none){.after p.keys{display:none}}
.notice{padding:10px 14px;border:1px solid var(--line);border-left:4px solid var(--accent);border-radius:8px;
background:var(--card);margin:0 0 16px}
.bars,.votes{list-style:none;margin:0;padding:0}
.bars li+li{margin-top:8px}.bars div{display:flex;justify-content:space-between;gap:10px;overflow-wrap:anywhere}
.bars svg{display:block;width:100%;height:8px;border-radius:4px;background:var(--line);margin-top:2px}
.bars rect{fill:var(--bar)}.bars .his rect{fill:var(--accent)}
.votes li{padding:8px 0;border-top:1px solid var(--line);overflow-wrap:anywhere}
.votes li:first-child{border:0;padding-top:0}
.votes p{margin:2px 0 0;color:var(--soft);font-size:14px}
.yes{color:var(--yes);font-weight:600}.no{color:var(--no);font-weight:600}
img.plot{display:block;width:100%;max-width:294px;height:auto;margin:auto}
table{width:100%;border-collapse:collapse;font-size:14px}th,td{padding:4px 4px;text-align:right;
border-top:1px solid var(--line);font-variant-numeric:tabular-nums}th:first-child{text-align:left}
summary{cursor:pointer;padding:6px 0;color:var(--accent);font-size:15px}
label{display:block;font-size:14px;color:var(--soft);margin-top:8px}.after label,.door label,.find label{margin:0}
label.one{display:flex;gap:8px;align-items:center}
input,select{font:inherit;width:100%;min-height:44px;padding:6px 10px;border:1px solid var(--edge);border-radius:8px;
background:var(--card);color:var(--ink)}input[type=checkbox]{width:20px;min-height:20px}
.grid{display:grid;grid-template-columns:1fr 1fr;gap:10px;margin:0 0 14px}
summary h2{display:inline;margin:0}
.door{max-width:440px;margin:10vh auto 40px;padding:0 16px}.door form>*+*{margin-top:12px}
.soft{color:var(--soft);font-size:14px}
@media(max-width:880px){main.wide{grid-template-columns:minmax(0,1fr)}}
@media(max-width:520px){.wide,main.wide{padding-left:12px;padding-right:12px}main.wide{padding-top:12px;gap:12px}
.card{padding:14px}nav a{padding:9px 7px 8px;font-size:15px}nav ul{gap:0}
.text{font-size:16px;padding:12px;max-height:52vh}.choices button,.choices .find{flex:1 1 100%}.who{margin-left:0}
dl.steps{gap:14px;margin-top:6px}kbd{display:none}}
@media(prefers-reduced-motion:no-preference){button,nav a{transition:background-color .12s,color .12s}}
@media(forced-colors:active){mark{forced-color-adjust:none;background:Mark;color:MarkText}.bars rect{fill:Highlight}}
"""

SCRIPT = """
(function(){
var box=document.getElementById("keys"),name="polarscore-keys",kept=null;
try{kept=localStorage.getItem(name)}catch(e){}
if(box){box.closest("p").hidden=false;box.checked=kept!=="off";box.addEventListener("change",function(){
try{localStorage.setItem(name,box.checked?"on":"off")}catch(e){}})}
addEventListener("keydown",function(e){
if(e.repeat||e.ctrlKey||e.metaKey||e.altKey||!box||!box.checked)return;
var t=e.target;if(t!==box&&/^(INPUT|SELECT|TEXTAREA)$/.test(t.tagName))return;
var all=document.querySelectorAll("[data-key]");
for(var i=0;i<all.length;i++)if(all[i].dataset.key.split(" ").indexOf(e.key.toLowerCase())>=0){e.preventDefault();
if(all[i].tagName==="INPUT")all[i].focus();else all[i].click();return}});
addEventListener("submit",function(e){if(e.target.method!=="post")return;
if(e.target.dataset.sent)e.preventDefault();else e.target.dataset.sent="1"});
addEventListener("pageshow",function(){document.querySelectorAll("form").forEach(function(f){delete f.dataset.sent})});
})()
"""


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


REVIEW_POLICY = (
    f"default-src 'none'; script-src {_hash(SCRIPT)}; style-src {_hash(STYLE)} {_hash(PLOT_STYLE)}; "
    "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page and of its plot."""
