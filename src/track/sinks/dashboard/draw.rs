//! The screen: where everything stands and how it looks, from 80 by 24 upwards, and something readable on
//! less. Changes nothing and reads nothing but the state.

use super::DashboardState;
use super::state::Curve;
use crate::track::sinks::console::{duration, short};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Clear, Dataset, GraphType, Paragraph, Wrap};

/// What the keys do.
const HELP: &[&str] = &[
    "space, arrows   another curve",
    "q               leave this view; the run goes on, line by line",
    "Ctrl-C          stop after this step and save; twice: at once",
    "?               close this",
];

impl DashboardState {
    /// Draws everything.
    pub fn draw(&self, frame: &mut Frame) {
        let area = frame.area();
        if area.width < 50 || area.height < 14 {
            return self.small(frame, area);
        }
        let said = if area.height >= 22 { 5 } else { 0 };
        let lines = if area.height >= 18 { 5 } else { 3 };
        let [head, bar, main, completion, log, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Min(6),
            Constraint::Length(said),
            Constraint::Length(lines),
            Constraint::Length(1),
        ])
        .areas(area);
        frame.render_widget(Paragraph::new(self.headline()), head);
        frame.render_widget(Paragraph::new(self.progress(bar.width)), bar);
        let [chart, side] =
            Layout::horizontal([Constraint::Min(20), Constraint::Length(34)]).areas(main);
        self.chart(frame, chart);
        self.side(frame, side);
        if said > 0 {
            self.said(frame, completion);
        }
        self.log(frame, log);
        let keys = " space/arrows: curve   q: leave   Ctrl-C: stop and save   ?: help";
        frame.render_widget(Paragraph::new(keys).style(self.faint()), foot);
        if self.help {
            self.help_box(frame, area);
        }
    }

    fn coloured(&self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }
    fn faint(&self) -> Style {
        if self.colour { Style::new().fg(Color::DarkGray) } else { Style::new() }
    }
    fn bold(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn headline(&self) -> Line<'static> {
        let mut rest = format!("  step {}/{}  epoch {:.2}", self.step, self.total, self.epoch);
        if let Some(seconds) = self.seconds_per_step() {
            let left = self.total.saturating_sub(self.step) as f64 * seconds;
            rest += &format!("  {} s/step  left {}", short(seconds), duration(left));
        }
        Line::from(vec![Span::styled(format!(" {}", self.title), self.bold()), Span::raw(rest)])
    }

    fn progress(&self, width: u16) -> Line<'static> {
        let share = (self.step as f64 / self.total.max(1) as f64).min(1.0);
        let width = usize::from(width).saturating_sub(8);
        let done = (share * width as f64).round() as usize;
        Line::from(vec![
            Span::raw(" "),
            Span::styled("█".repeat(done), self.coloured(Color::Green)),
            Span::styled("░".repeat(width - done), self.faint()),
            Span::raw(format!(" {:>3.0} %", 100.0 * share)),
        ])
    }

    fn chart(&self, frame: &mut Frame, area: Rect) {
        let Some((name, points)) = self.curves.get(self.selected) else {
            let waiting = Paragraph::new("waiting for the first step").block(Block::bordered());
            return frame.render_widget(waiting, area);
        };
        let (low, high) = bounds(points.iter().map(|p| p.1));
        let (first, last) = bounds(points.iter().map(|p| p.0));
        let data = Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(self.coloured(Color::Cyan))
            .data(points);
        let (from, to) = (points.first(), points.last());
        let step = |p: Option<&(f64, f64)>| p.map_or(String::new(), |p| format!("{}", p.0));
        let chart = Chart::new(vec![data])
            .block(Block::bordered().title(format!(" {name} ")))
            .x_axis(Axis::default().bounds([first, last]).labels([step(from), step(to)]))
            .y_axis(Axis::default().bounds([low, high]).labels([short(low), short(high)]));
        frame.render_widget(chart, area);
    }

    fn side(&self, frame: &mut Frame, area: Rect) {
        let inner = usize::from(area.height.saturating_sub(2));
        let width = usize::from(area.width.saturating_sub(2));
        let memory: Vec<Line> = self.memory.iter().take(3).map(|m| memory_line(m, width)).collect();
        let phases = self.phase_lines(width, inner.saturating_sub(memory.len() + 3).min(6));
        let room = inner.saturating_sub(memory.len() + phases.len());
        let mut lines = self.curve_lines(width, room);
        lines.extend(phases);
        lines.extend(memory);
        let block = Block::bordered().title(" now ");
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    /// The curves around the chosen one, with their last values.
    fn curve_lines(&self, width: usize, room: usize) -> Vec<Line<'static>> {
        let first = (self.selected + 1).saturating_sub(room);
        let line = |(i, (name, points)): (usize, &Curve)| {
            let value = points.last().map_or(String::new(), |p| short(p.1));
            let mark = if i == self.selected { '>' } else { ' ' };
            let name = cut(name, width.saturating_sub(value.len() + 3));
            let gap = width.saturating_sub(2 + name.chars().count() + value.len());
            let text = format!("{mark} {name}{}{value}", " ".repeat(gap));
            let style = if i == self.selected { self.bold() } else { Style::new() };
            Line::styled(text, style)
        };
        self.curves.iter().enumerate().skip(first).take(room).map(line).collect()
    }

    /// Bars of the phases that took longest.
    fn phase_lines(&self, width: usize, room: usize) -> Vec<Line<'static>> {
        let mut phases: Vec<&(String, f64)> = self.phases.iter().filter(|p| p.1 > 0.0).collect();
        phases.sort_by(|a, b| b.1.total_cmp(&a.1));
        phases.truncate(room);
        let longest = phases.first().map_or(1.0, |p| p.1);
        let name_width = 16;
        let bar_width = width.saturating_sub(name_width + 9);
        let line = |(name, seconds): &(String, f64)| {
            let length = (seconds / longest * bar_width as f64).ceil() as usize;
            Line::from(vec![
                Span::raw(format!("{:<name_width$} ", cut(name, name_width))),
                Span::styled(
                    format!("{:<bar_width$}", "█".repeat(length)),
                    self.coloured(Color::Yellow),
                ),
                Span::raw(format!("{:>7}s", short(*seconds))),
            ])
        };
        phases.into_iter().map(line).collect()
    }

    fn said(&self, frame: &mut Frame, area: Rect) {
        let Some(said) = &self.said else {
            let block = Block::bordered().title(" best completion ");
            return frame.render_widget(block, area);
        };
        let block = Block::bordered().title(format!(" best completion of step {} ", said.step));
        let width = usize::from(area.width.saturating_sub(2));
        let lines = vec![
            Line::styled(cut(&said.prompt, width), self.faint()),
            Line::raw(cut(&said.text, width)),
            Line::styled(cut(&said.scores, width), self.coloured(Color::Green)),
        ];
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    /// Alerts that are on, then the last lines.
    fn log(&self, frame: &mut Frame, area: Rect) {
        let room = usize::from(area.height.saturating_sub(2));
        let width = usize::from(area.width.saturating_sub(2));
        let red = self.coloured(Color::Red).add_modifier(Modifier::BOLD);
        let alerts = self.alerts.iter().take(room.div_ceil(2));
        let mut lines: Vec<Line> =
            alerts.map(|(_, m)| Line::styled(cut(&format!("! {m}"), width), red)).collect();
        let left = room - lines.len();
        let skip = self.lines.len().saturating_sub(left);
        lines.extend(self.lines.iter().skip(skip).map(|l| Line::raw(cut(l, width))));
        let title = match self.alerts.len() {
            0 => " log ".to_string(),
            n => format!(" log, {n} alert{} ", if n == 1 { "" } else { "s" }),
        };
        frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(title)), area);
    }

    /// A terminal too small for boxes.
    fn small(&self, frame: &mut Frame, area: Rect) {
        let mut lines = vec![self.headline()];
        lines.extend(self.alerts.iter().map(|(name, _)| Line::raw(format!("! {name}"))));
        let room = usize::from(area.height).saturating_sub(lines.len() + 1);
        lines.extend(self.curve_lines(usize::from(area.width), room));
        lines.push(Line::raw("q: leave"));
        frame.render_widget(Paragraph::new(lines), area);
    }

    fn help_box(&self, frame: &mut Frame, area: Rect) {
        let (width, height) = (66.min(area.width), 6.min(area.height));
        let at = Rect {
            x: area.x + (area.width - width) / 2,
            y: area.y + (area.height - height) / 2,
            width,
            height,
        };
        frame.render_widget(Clear, at);
        let lines: Vec<Line> = HELP.iter().map(|l| Line::raw(*l)).collect();
        let text = Paragraph::new(lines).wrap(Wrap { trim: false });
        frame.render_widget(text.block(Block::bordered().title(" keys ")), at);
    }
}

/// Bytes of a region.
fn memory_line((name, bytes): &(String, f64), width: usize) -> Line<'static> {
    let value = format!("{:.2} GiB", bytes / (1u64 << 30) as f64);
    let name = cut(name, width.saturating_sub(value.len() + 1));
    let gap = width.saturating_sub(name.chars().count() + value.len());
    Line::raw(format!("{name}{}{value}", " ".repeat(gap)))
}

/// Lowest and highest value with some room where they are one.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    match low < high {
        true => (low, high),
        false => (low - 0.5, high + 0.5),
    }
}

/// At most so many characters.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + "…"
}
