"""The page that a report is filled into; no data file, so that every installation has it."""

from string import Template

STYLE = """
:root { --ink: #1d2433; --soft: #667085; --line: #e4e7ee; --good: #1f9d55; --fair: #e8a200;
  --bad: #d6336c; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7fa; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 48px; }
h1 { font-size: 15px; font-weight: 600; margin: 0 0 8px; color: var(--soft);
  overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 0 0 10px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 18px;
  margin-top: 16px; min-width: 0; overflow: hidden; }
.verdict { font-size: 21px; line-height: 1.35; font-weight: 600; margin: 0; padding-left: 14px;
  border-left: 5px solid; }
.good { border-color: var(--good); } .fair { border-color: var(--fair); }
.bad { border-color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(112px, 1fr)); gap: 10px;
  margin: 18px 0; }
.tile { background: #f5f7fa; border-radius: 9px; padding: 10px 12px; }
.tile b { display: block; font-size: 22px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile small { font-size: 13px; font-weight: 500; }
.tile span { font-size: 13px; color: var(--soft); }
.tile.over b { color: var(--bad); }
.bar { display: flex; height: 12px; border-radius: 6px; overflow: hidden; background: #eceff4; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 10px; font-size: 13px; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 3px;
  margin-right: 6px; }
.legend .none { opacity: .45; }
.notes { margin: 16px 0 0; padding-left: 20px; color: var(--soft); font-size: 13px;
  overflow-wrap: anywhere; }
.soft { margin: 0 0 14px; color: var(--soft); font-size: 13px; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
.facts { display: grid; grid-template-columns: 1.3fr 1fr; gap: 28px; align-items: start; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { text-align: left; padding: 5px 8px 5px 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums; vertical-align: top; }
th { font-weight: 500; color: var(--soft); white-space: nowrap; }
.shots { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 14px; }
.pairs { display: grid; gap: 18px; }
figure { margin: 0; }
img { width: 100%; display: block; border-radius: 8px; }
figcaption { font-size: 13px; color: var(--soft); margin-top: 4px; }
footer { margin-top: 20px; font-size: 13px; color: var(--soft); }
@media (max-width: 760px) {
  main { padding: 14px 10px 32px; }
  .two, .facts { grid-template-columns: 1fr; }
  .verdict { font-size: 18px; }
  section { padding: 14px; }
}
"""
"""Of every page that the project writes."""

_HEAD = (
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title: detections against the deadline</title>
<style>"""
    + STYLE
    + """</style>
<script>$plotly</script>
</head>
"""
)

PAGE = Template(
    _HEAD
    + """<body>
<main>
<section>
<h1>$title</h1>
<p class="verdict $tone">$verdict</p>
<div class="tiles">$tiles</div>
$statuses
$notes
</section>
$golden
<section><h2>Every frame, stage by stage, against the deadline</h2>$timeline</section>
<div class="two">
<section><h2>$measured</h2>$histogram</section>
<section><h2>Objects by class, over the drive</h2>$classes</section>
</div>
$engine
$accuracy
<section><h2>Frames</h2><div class="shots">$shots</div></section>
$health
<section><h2>Facts</h2><div class="facts">$facts</div></section>
<footer>perception_nodes. Open detections.mcap in Foxglove to see boxes over the camera.</footer>
</main>
</body>
</html>
"""
)

COMPARISON_PAGE = Template(
    _HEAD
    + """<body>
<main>
<section>
<h1>$title</h1>
<p class="verdict $tone">$verdict</p>
</section>
<section><h2>Figures</h2>$figures</section>
<div class="two">
<section><h2>Latency</h2>$latency</section>
<section><h2>Objects by class</h2>$classes</section>
</div>
<section><h2>Frames that differ most, A left, B right</h2><div class="pairs">$shots</div>
<ul class="notes">$lines</ul></section>
<footer>perception_nodes. Objects of B against those of A, with the tolerances of a golden.</footer>
</main>
</body>
</html>
"""
)
