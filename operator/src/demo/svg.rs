//! Plots in SVG and the page around them: one HTML file that needs nothing from outside.

use std::fmt::Write as _;

use super::verdict::Verdict;

/// The time that a plot shows.
pub(super) struct Axis {
    /// Whole seconds from the start.
    pub(super) seconds: usize,
    /// Stretches with a grey ground.
    pub(super) shaded: Vec<std::ops::Range<usize>>,
    /// Moments at which something happens.
    pub(super) marks: Vec<Mark>,
}

/// A moment, by seconds from the start, and what happens then.
pub(super) struct Mark {
    pub(super) at: f64,
    pub(super) words: &'static str,
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 40.0;

pub(super) const GREY: &str = "#6b7280";
pub(super) const BLUE: &str = "#1d4ed8";
pub(super) const ORANGE: &str = "#c2570c";
pub(super) const RED: &str = "#b91c1c";
pub(super) const GREEN: &str = "#15803d";

/// One line of a plot. Points without a value leave a gap.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) colour: &'static str,
    pub(super) dashed: bool,
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// The page: `body` stands between the heading and the checks.
pub(super) fn document(body: &str, verdict: &Verdict) -> String {
    let (class, word) = if verdict.passed() { ("passed", "passed") } else { ("failed", "failed") };
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Weir demo: {word}</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: #111827; background: #ffffff; max-width: 960px; margin: 2rem auto; padding: 0 1rem; }}
svg {{ width: 100%; height: auto; margin-top: 1rem; }}
table {{ border-collapse: collapse; width: 100%; margin: 1rem 0; }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #d1d5db; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
.passed {{ color: {GREEN}; }} .failed {{ color: {RED}; }}
</style>
</head>
<body>
<h1>Weir demo: <span class="{class}">{word}</span></h1>
{body}
<h2>Checks</h2>
{checks}
</body>
</html>
"#,
        checks = checks(verdict),
    )
}

pub(super) fn table(rows: &[Vec<String>]) -> String {
    let mut html = String::from("<table>\n");
    for (position, row) in rows.iter().enumerate() {
        let tag = if position == 0 { "th" } else { "td" };
        let cells: String = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        let _ = writeln!(html, "<tr>{cells}</tr>");
    }
    html + "</table>"
}

fn checks(verdict: &Verdict) -> String {
    let mut html = String::from("<ul>\n");
    for check in &verdict.checks {
        let (class, mark) = if check.passed { ("passed", "✓") } else { ("failed", "✗") };
        let (subject, detail) = (escape(&check.subject), escape(&check.detail));
        let _ = writeln!(html, "<li><span class=\"{class}\">{mark}</span> {subject}, {detail}</li>");
    }
    html + "</ul>"
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(super) fn plot(axis: &Axis, title: &str, unit: &str, lines: &[Line]) -> String {
    let seconds = axis.seconds as f64;
    let values = lines.iter().flat_map(|line| &line.points).filter_map(|(_, value)| *value);
    let highest = values.filter(|value| value.is_finite()).fold(1.0, f64::max);
    let step = nice_step(highest / 4.0);
    let top = (highest / step).ceil() * step;
    let x = |at: f64| LEFT + at.clamp(0.0, seconds) / seconds * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value.clamp(0.0, top) / top * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"12\" fill=\"#111827\">\n<text x=\"{LEFT}\" y=\"14\" font-size=\"14\" font-weight=\"600\">{title}</text>\n"
    );
    for stretch in &axis.shaded {
        let (begin, end) = (x(stretch.start as f64), x(stretch.end as f64));
        let _ = writeln!(
            svg,
            "<rect x=\"{begin:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#f3f4f6\"/>",
            end - begin,
            HEIGHT - TOP - BOTTOM
        );
    }
    let mut tick = 0.0;
    while tick <= top + step / 2.0 {
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#d1d5db\" stroke-width=\"0.7\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y(tick) + 4.0,
            at = y(tick)
        );
        tick += step;
    }
    let step = nice_step(seconds / 10.0).max(1.0);
    let mut tick = 0.0;
    while tick <= seconds {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text>",
            x(tick),
            HEIGHT - BOTTOM + 15.0
        );
        tick += step;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">seconds since the start of the load</text>\
         <text transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">{unit}</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 8.0,
        (TOP + HEIGHT - BOTTOM) / 2.0
    );
    for Mark { at, words } in &axis.marks {
        let at = x(*at);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"{GREY}\" stroke-dasharray=\"2 3\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{words}</text>",
            HEIGHT - BOTTOM,
            at + 4.0,
            TOP + 12.0
        );
    }
    let mut legend = LEFT;
    for line in lines {
        let dash = if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
        let stroke = format!("stroke=\"{}\" stroke-width=\"1.8\" fill=\"none\"{dash}", line.colour);
        for run in line.points.split(|(_, value)| !value.is_some_and(f64::is_finite)) {
            let points: Vec<String> = run
                .iter()
                .filter_map(|(at, value)| value.map(|value| format!("{:.1},{:.1}", x(*at), y(value))))
                .collect();
            if !points.is_empty() {
                let _ = writeln!(svg, "<polyline points=\"{}\" {stroke}/>", points.join(" "));
            }
        }
        let _ = writeln!(
            svg,
            "<line x1=\"{legend:.0}\" x2=\"{:.0}\" y1=\"25\" y2=\"25\" {stroke}/><text x=\"{:.0}\" y=\"29\">{}</text>",
            legend + 22.0,
            legend + 28.0,
            line.name
        );
        // No font metrics here: about seven units a letter.
        legend += 28.0 + line.name.len() as f64 * 7.0 + 18.0;
    }
    svg + "</svg>"
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= least * 0.999).unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::nice_step;

    #[test]
    fn steps_are_round() {
        for (least, step) in [(0.3, 0.5), (1.0, 1.0), (6.0, 10.0), (75.0, 100.0), (15.0, 20.0), (130.0, 200.0)] {
            assert!((nice_step(least) - step).abs() < 1e-9, "{least}");
        }
    }
}
