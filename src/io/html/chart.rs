//! Line charts as SVG text: axes, a band, a faint raw line and a smooth one over it. Values that
//! are not finite leave a gap and never a wrong point.

use super::escape;
use std::fmt::Write;

/// One line of a chart.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// (step, value), steps rising, values finite.
    pub points: Vec<(f64, f64)>,
    /// (step, low, high) of a band behind the line; may be empty.
    pub band: Vec<(f64, f64, f64)>,
}

/// Size of a chart and the frame of its plot, in SVG units.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 22.0;
/// More points than pixels only cost bytes: longer series are averaged to this many.
const MAX_POINTS: usize = 400;
/// From this length on, the raw line is drawn faintly below a smooth one.
const SMOOTH_FROM: usize = 40;

/// Maps values to the plot.
pub struct Frame {
    /// First and last value of the axes.
    pub x: (f64, f64),
    /// Lowest and highest value of the axes.
    pub y: (f64, f64),
}

impl Frame {
    /// Horizontal position of a step.
    pub fn px(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }
    /// Vertical position of a value.
    pub fn py(&self, y: f64) -> f64 {
        TOP + (self.y.1 - y) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }
    /// Opens the SVG and draws grid, labels (below the axis only with `x_labels`) and the crosshair
    /// that the page's script moves.
    pub fn open(&self, label: &str, x_labels: bool) -> String {
        let mut s = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(label)
        );
        let step = tick_step(self.y);
        for v in ticks(self.y, 4) {
            let y = self.py(v);
            let _ = write!(
                s,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"ylab\" x=\"{}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 3.5,
                tick_label(v, step)
            );
        }
        let step = tick_step(self.x);
        let whole = |v: &f64| x_labels && (step >= 1.0 || v.fract() == 0.0);
        for v in ticks(self.x, 5).into_iter().filter(whole) {
            let _ = write!(
                s,
                "<text class=\"xlab\" x=\"{:.1}\" y=\"{}\">{}</text>",
                self.px(v),
                HEIGHT - 6.0,
                tick_label(v, step)
            );
        }
        let _ = write!(
            s,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\"/>\
             <line class=\"cross\" y1=\"{TOP}\" y2=\"{y}\" visibility=\"hidden\"/>",
            WIDTH - RIGHT,
            y = HEIGHT - BOTTOM
        );
        s
    }
    /// Attributes that let the page's script turn a pointer position into a step.
    pub fn data_attributes(&self) -> String {
        format!("data-x=\"{},{},{LEFT},{},{WIDTH}\"", self.x.0, self.x.1, WIDTH - RIGHT)
    }
}

/// A chart of one or more series; empty text if there is nothing to draw.
pub fn line_chart(title: &str, series: &[Series]) -> String {
    let drawn: Vec<Series> =
        series.iter().filter(|s| !s.points.is_empty()).map(|s| thin(s, MAX_POINTS)).collect();
    let Some(last) = drawn.first().and_then(|s| s.points.last()) else { return String::new() };
    let frame = fit(&drawn);
    let mut svg = frame.open(title, true);
    for (i, s) in drawn.iter().enumerate() {
        svg += &draw(&frame, s, i % 8, drawn.len() == 1);
    }
    svg += "</svg>";
    let mut legend = String::new();
    if drawn.len() > 1 {
        let item = |(i, s): (usize, &Series)| {
            format!("<span><i class=\"b{}\"></i>{}</span>", i % 8, escape(&s.name))
        };
        legend = format!(
            "<div class=\"legend\">{}</div>",
            drawn.iter().enumerate().map(item).collect::<String>()
        );
    }
    let data: Vec<_> = drawn
        .iter()
        .map(|s| serde_json::json!({"n": s.name, "p": s.points.iter().map(rounded).collect::<Vec<_>>()}))
        .collect();
    let data = escape(&serde_json::Value::from(data).to_string());
    format!(
        "<figure class=\"card\" {} data-series=\"{data}\"><figcaption><b>{}</b>\
         <span class=\"read\">{}</span></figcaption>{legend}{svg}</figure>\n",
        frame.data_attributes(),
        escape(title),
        if drawn.len() == 1 { compact(last.1) } else { String::new() },
    )
}

/// Four digits are all that the readout shows.
fn rounded(p: &(f64, f64)) -> (f64, f64) {
    (p.0, format!("{:.4e}", p.1).parse().unwrap_or(p.1))
}

fn fit(series: &[Series]) -> Frame {
    let xs = series.iter().flat_map(|s| s.points.iter().map(|p| p.0));
    let ys = series
        .iter()
        .flat_map(|s| s.points.iter().map(|p| p.1).chain(s.band.iter().flat_map(|b| [b.1, b.2])));
    let (mut x, y) = (range(xs), range(ys));
    if x.0 == x.1 {
        x = (x.0 - 1.0, x.1 + 1.0);
    }
    Frame { x, y: padded(y) }
}

/// Smallest and largest value.
pub fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |r, v| (r.0.min(v), r.1.max(v)))
}

/// Room above and below the data; 0 stays the edge of data that touches it.
pub fn padded(y: (f64, f64)) -> (f64, f64) {
    if y.0 == y.1 {
        let room = if y.0 == 0.0 { 1.0 } else { y.0.abs() * 0.5 };
        return if y.0 == 0.0 { (0.0, 1.0) } else { (y.0 - room, y.1 + room) };
    }
    let room = (y.1 - y.0) * 0.06;
    let low = if y.0 == 0.0 { 0.0 } else { y.0 - room };
    (low, if y.1 == 0.0 { 0.0 } else { y.1 + room })
}

fn draw(frame: &Frame, s: &Series, color: usize, single: bool) -> String {
    let mut out = String::new();
    if s.band.len() > 1 {
        let upper = s.band.iter().map(|b| (b.0, b.2));
        let lower = s.band.iter().rev().map(|b| (b.0, b.1));
        let path = polyline(frame, upper.chain(lower));
        let _ = write!(out, "<polygon class=\"band f{color}\" points=\"{path}\"/>");
    }
    if let [only] = s.points[..] {
        let (x, y) = (frame.px(only.0), frame.py(only.1));
        let _ = write!(out, "<circle class=\"f{color}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>");
        return out;
    }
    let raw = polyline(frame, s.points.iter().copied());
    let smooth = s.points.len() >= SMOOTH_FROM;
    let class = if smooth { "raw" } else { "line" };
    if single || !smooth {
        let _ = write!(out, "<polyline class=\"{class} s{color}\" points=\"{raw}\"/>");
    }
    if smooth {
        let path = polyline(frame, smoothed(&s.points).into_iter());
        let _ = write!(out, "<polyline class=\"line s{color}\" points=\"{path}\"/>");
    }
    out
}

fn polyline(frame: &Frame, points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut out = String::new();
    for (x, y) in points {
        let _ = write!(out, "{:.1},{:.1} ", frame.px(x), frame.py(y));
    }
    out.truncate(out.trim_end().len());
    out
}

/// Mean over a centred window of a twentieth of the series, narrower at its ends: unlike an
/// exponential mean it does not lag behind a trend.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = (points.len() / 40).max(1);
    let mean = |i: usize| {
        let reach = half.min(i).min(points.len() - 1 - i);
        let window = &points[i - reach..=i + reach];
        window.iter().map(|p| p.1).sum::<f64>() / window.len() as f64
    };
    points.iter().enumerate().map(|(i, p)| (p.0, mean(i))).collect()
}

/// The series averaged to at most `max` points; bands keep their outermost edges.
fn thin(s: &Series, max: usize) -> Series {
    let chunk = |n: usize| n.div_ceil(max).max(1);
    let points = s.points.chunks(chunk(s.points.len())).map(|c| {
        let mean = c.iter().map(|p| p.1).sum::<f64>() / c.len() as f64;
        (c[c.len() - 1].0, mean)
    });
    let band = s.band.chunks(chunk(s.band.len())).map(|c| {
        let low = c.iter().map(|b| b.1).sum::<f64>() / c.len() as f64;
        let high = c.iter().map(|b| b.2).sum::<f64>() / c.len() as f64;
        (c[c.len() - 1].0, low, high)
    });
    Series { name: s.name.clone(), points: points.collect(), band: band.collect() }
}

/// Distance between round tick values: 1, 2 or 5 times a power of ten, about four in the range.
fn tick_step(r: (f64, f64)) -> f64 {
    let raw = (r.1 - r.0) / 4.0;
    let power = 10f64.powf(raw.log10().floor());
    let unit = raw / power;
    power
        * if unit < 1.5 {
            1.0
        } else if unit < 3.5 {
            2.0
        } else if unit < 7.5 {
            5.0
        } else {
            10.0
        }
}

/// Round values inside the range.
fn ticks(r: (f64, f64), most: usize) -> Vec<f64> {
    let step = tick_step(r);
    if !step.is_finite() || step <= 0.0 {
        return Vec::new();
    }
    let first = (r.0 / step - 1e-9).ceil();
    (0..=2 * most).map(|i| (first + i as f64) * step).filter(|v| *v <= r.1 + step * 1e-9).collect()
}

/// A tick value with the digits that its step needs.
fn tick_label(v: f64, step: f64) -> String {
    let v = if v.abs() < step * 1e-6 { 0.0 } else { v };
    let a = v.abs();
    if v == 0.0 {
        "0".into()
    } else if a >= 1e4 || (step < 1e-3 && a < 1e-2) {
        compact(v)
    } else {
        format!("{v:.*}", (-step.log10().floor()).max(0.0) as usize)
    }
}

/// A number for people: at most four digits, `k`, `M`, `G` or a power of ten.
pub fn compact(v: f64) -> String {
    let a = v.abs();
    let trim = |s: String| match s.contains('.') {
        true => s.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => s,
    };
    match a {
        _ if v == 0.0 => "0".into(),
        _ if !v.is_finite() => v.to_string(),
        _ if a >= 1e9 => trim(format!("{:.2}", v / 1e9)) + "G",
        _ if a >= 1e6 => trim(format!("{:.2}", v / 1e6)) + "M",
        _ if a >= 1e4 => trim(format!("{:.1}", v / 1e3)) + "k",
        _ if a >= 1e-2 => {
            let digits = (3.0 - a.log10().floor()).clamp(0.0, 5.0);
            trim(format!("{v:.*}", digits as usize))
        }
        _ => {
            let s = format!("{v:.2e}");
            let (mantissa, exponent) = s.split_once('e').unwrap_or((&s, "0"));
            format!("{}e{exponent}", trim(mantissa.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks((0.0, 1.0), 4), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks((1.0, 100.0), 5), [20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(tick_label(0.6000000000000001, 0.2), "0.6");
        assert_eq!(tick_label(2e-6, 1e-6), "2e-6");
        assert!(ticks((1.0, 1.0), 4).is_empty());
    }

    #[test]
    fn compact_numbers() {
        let shown = [0.0, 1.5, 0.25, 1e-6, 123456.0, 2.5e6, -3e9, 100.0, 46.6164].map(compact);
        assert_eq!(shown, ["0", "1.5", "0.25", "1e-6", "123.5k", "2.5M", "-3G", "100", "46.62"]);
    }

    #[test]
    fn long_series_are_thinned_to_their_mean() {
        let points: Vec<_> = (0..4000).map(|i| (i as f64, (i % 2) as f64)).collect();
        let t = thin(&Series { points, ..Series::default() }, MAX_POINTS);
        assert_eq!(t.points.len(), MAX_POINTS);
        assert!(t.points.iter().all(|p| p.1 == 0.5));
    }

    #[test]
    fn smoothing_keeps_a_straight_line() {
        let line: Vec<_> = (0..100).map(|i| (f64::from(i), 2.0 * f64::from(i))).collect();
        assert_eq!(smoothed(&line), line);
        let zigzag: Vec<_> = (0..200).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        assert!(smoothed(&zigzag)[100].1 < 0.6);
    }

    #[test]
    fn every_point_lies_in_the_frame() {
        for points in [
            vec![(1.0, 5.0)],
            vec![(1.0, 0.0), (2.0, 0.0)],
            vec![(1.0, -1e-9), (2.0, 1e-9)],
            vec![(0.0, -1e12), (1e6, 1e12)],
        ] {
            let f = fit(&[Series { points: points.clone(), ..Series::default() }]);
            for (x, y) in points {
                assert!((LEFT..=WIDTH - RIGHT).contains(&f.px(x)));
                assert!((TOP..=HEIGHT - BOTTOM).contains(&f.py(y)), "{}", f.py(y));
            }
        }
        assert_eq!(line_chart("x", &[Series::default()]), "");
    }
}
