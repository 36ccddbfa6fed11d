//! What `shmbc top` looks like: the service in two lines, then a line for each pair, and the keys.

use std::fmt::Write;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line as TextLine, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::model::{HISTORY, Key, Line, Model, Sort};
use crate::rows::{age, bytes, rate};

const SHARED: Color = Color::Green;
const TCP: Color = Color::Yellow;
const QUIET: Color = Color::DarkGray;

/// Lines above the first row of the table: an empty one and the titles.
const HEADER: u16 = 2;

/// Reasons that the third line has room for.
const REASONS: usize = 4;

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let [head, table, foot] =
        Layout::vertical([Constraint::Length(3), Constraint::Min(3), Constraint::Length(1)]).areas(frame.area());
    draw_head(frame, head, model);
    draw_table(frame, table, model);
    frame.render_widget(foot_line(model), foot);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let [left, right] = Layout::horizontal([Constraint::Min(20), Constraint::Length(HISTORY as u16)]).areas(area);
    let quiet = |text: &str| Span::styled(text.to_owned(), QUIET);
    let number = |n: u64| Span::from(n.to_string()).bold();
    let mut lines = Vec::new();
    if let Some(status) = model.status() {
        let docker = match status.docker {
            true => Span::styled("docker", SHARED),
            false => Span::styled("no docker", TCP),
        };
        let up = format!("   {} up {}   ", status.version, age(status.up_ms));
        lines.push(TextLine::from(vec![
            Span::from("shmbc top").bold(),
            quiet(&up),
            docker,
            quiet("   processes "),
            number(status.sessions),
            quiet("   containers "),
            number(status.containers),
            quiet("   listeners "),
            number(model.listeners as u64),
        ]));
        lines.push(TextLine::from(vec![
            quiet("shared memory "),
            Span::styled(model.paths[0].to_string(), Style::new().fg(SHARED).bold()),
            quiet("   TCP "),
            Span::styled(model.paths[1].to_string(), Style::new().fg(TCP).bold()),
            quiet("   upgrades "),
            number(model.upgrades),
            quiet("/s   refused "),
            number(model.refusals),
            quiet("/s   blocks "),
            number(status.blocks),
            quiet("   descriptors "),
            Span::from(format!("{}/{}", status.fds, status.fd_limit)),
        ]));
        let mut reasons: Vec<_> = status.refusals.iter().filter(|(_, n)| *n > 0).collect();
        reasons.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let words: Vec<_> = reasons.iter().take(REASONS).map(|(word, n)| format!("{word} {n}")).collect();
        let refused = if words.is_empty() { "none".into() } else { words.join(", ") };
        lines.push(TextLine::from(vec![quiet("refused so far: "), Span::from(refused)]));
    }
    frame.render_widget(Paragraph::new(lines), left);
    let now = model.total.back().copied().unwrap_or(0);
    let curve = vec![
        TextLine::from(Span::from(rate(now)).bold()),
        TextLine::from(Span::styled(curve(&model.total), SHARED)),
        TextLine::from(quiet("through shared memory")),
    ];
    frame.render_widget(Paragraph::new(curve).alignment(Alignment::Right), right);
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let lines = model.lines();
    let fit = area.height.saturating_sub(HEADER);
    let heights = || lines.iter().map(|(key, _)| height(key));
    // So far that the last ones fill the screen.
    let most = heights()
        .rev()
        .scan(0, |sum, height| {
            *sum += height;
            Some(*sum)
        })
        .take_while(|sum| *sum <= fit)
        .count();
    let first = model.first(lines.len(), most);
    let mark = |title: &'static str, sort: Sort| {
        let style = if model.sort == sort { Style::new().bold().underlined() } else { Style::new().fg(QUIET) };
        Cell::from(title).style(style)
    };
    let plain = |title: &'static str| Cell::from(title).style(Style::new().fg(QUIET));
    let right = |title: &'static str, sort: Sort| {
        let style = if model.sort == sort { Style::new().bold().underlined() } else { Style::new().fg(QUIET) };
        Cell::from(TextLine::from(title).alignment(Alignment::Right)).style(style)
    };
    let header = Row::new([
        mark("A", Sort::Name),
        mark("B", Sort::Name),
        plain("PATH"),
        right("CONN", Sort::Connections),
        right("A TO B", Sort::Rate),
        right("B TO A", Sort::Rate),
        plain("LAST LOOKS"),
        Cell::from(TextLine::from("RING").alignment(Alignment::Right)).style(Style::new().fg(QUIET)),
        right("MOVED", Sort::Bytes),
        right("AGE", Sort::Age),
    ])
    .top_margin(1);
    let shown = lines.iter().skip(first).map(|(key, line)| table_row(key, line));
    let widths = [
        Constraint::Fill(3),
        Constraint::Fill(3),
        Constraint::Length(13),
        Constraint::Length(5),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(10),
        Constraint::Length(4),
        Constraint::Length(10),
        Constraint::Length(6),
    ];
    frame.render_widget(Table::new(shown, widths).header(header).column_spacing(1), area);
    // Why a line is TCP stands below it, over the whole width.
    let mut y = HEADER;
    for (key, _) in lines.iter().skip(first) {
        if let Some(why) = &key.why
            && y + 1 < area.height
        {
            let below = Rect { x: area.x, y: area.y + y + 1, width: area.width, height: 1 };
            frame.render_widget(Paragraph::new(format!("  {why}")).fg(QUIET), below);
        }
        y = y.saturating_add(height(key));
    }
    if lines.is_empty() {
        let words = match (model.filter(), model.status()) {
            ("", _) => "no connection yet: a program offers one when its traffic shows that it lives on",
            _ => "nothing fits the filter",
        };
        let below = Rect { y: area.y.saturating_add(3).min(area.bottom().saturating_sub(1)), height: 1, ..area };
        frame.render_widget(Paragraph::new(words).fg(QUIET).alignment(Alignment::Center), below);
    }
}

/// Lines of the screen that a row takes.
fn height(key: &Key) -> u16 {
    if key.why.is_some() { 2 } else { 1 }
}

fn table_row(key: &Key, line: &Line) -> Row<'static> {
    let colour = if key.path == "TCP" { TCP } else { SHARED };
    let right = |text: String| Cell::from(TextLine::from(text).alignment(Alignment::Right));
    let moves = |n: u64| match n {
        0 => Cell::from(TextLine::from("-").alignment(Alignment::Right)).style(Style::new().fg(QUIET)),
        n => right(rate(n)),
    };
    Row::new([
        Cell::from(key.ends[0].clone()),
        Cell::from(key.ends[1].clone()),
        Cell::from(Span::styled(key.path, colour)),
        right(line.connections.to_string()),
        moves(line.rate[0]),
        moves(line.rate[1]),
        Cell::from(Span::styled(last(&curve(&line.history), 10), colour)),
        right(line.fill.map_or_else(String::new, |fill| format!("{fill}%"))),
        right(bytes(line.bytes[0].saturating_add(line.bytes[1]))),
        right(age(line.age_ms)),
    ])
    .height(height(key))
}

fn foot_line(model: &Model) -> Paragraph<'static> {
    if let Some(why) = &model.lost {
        return Paragraph::new(format!(" {why}; asking again ")).style(Style::new().bg(Color::Red).fg(Color::White));
    }
    if model.is_typing() {
        return Paragraph::new(format!("/{}\u{2588}   Enter keeps the filter, Escape ends it", model.filter()));
    }
    let key = |key: &'static str, what: &'static str| [Span::from(key).bold(), Span::styled(what, QUIET)];
    let group = if model.single { " pairs  " } else { " connections  " };
    let hold = if model.paused { " go on  " } else { " hold  " };
    let mut words = Vec::new();
    words.extend(key("r", " rate  "));
    words.extend(key("c", " conn  "));
    words.extend(key("b", " moved  "));
    words.extend(key("n", " name  "));
    words.extend(key("a", " age  "));
    words.extend(key("g", group));
    words.extend(key("/", " filter  "));
    words.extend(key("space", hold));
    words.extend(key("q", " quit"));
    if !model.filter().is_empty() {
        words.push(Span::styled(format!("   filter: {}", model.filter()), TCP));
    }
    if model.paused {
        words.push(Span::styled("   held still", TCP));
    }
    Paragraph::new(TextLine::from(words))
}

/// Values as bars, the largest as a full one.
fn curve<'a>(values: impl IntoIterator<Item = &'a u64, IntoIter: Clone>) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values = values.into_iter();
    let most = values.clone().copied().max().unwrap_or(0).max(1);
    let bar = |value: u64| BARS[(u128::from(value) * 7).div_ceil(u128::from(most)).min(7) as usize];
    values.map(|value| bar(*value)).collect()
}

/// The last characters.
fn last(text: &str, most: usize) -> String {
    let all = text.chars().count();
    text.chars().skip(all.saturating_sub(most)).collect()
}

/// For `NO_COLOR`: bold and underlined stay.
pub(super) fn without_colours(buffer: &mut Buffer) {
    for cell in &mut buffer.content {
        cell.set_fg(Color::Reset).set_bg(Color::Reset);
    }
}

/// A buffer as lines of text, with the terminal's codes for colours if asked for.
pub(super) fn text(buffer: &Buffer, colours: bool) -> String {
    let mut lines = Vec::new();
    for y in 0..buffer.area.height {
        let mut line = String::new();
        let mut style = String::new();
        for x in 0..buffer.area.width {
            let cell = &buffer[(x, y)];
            let wanted = codes(cell.fg, cell.bg, cell.modifier);
            if colours && wanted != style {
                let _ = write!(line, "\u{1b}[0{wanted}m");
                style = wanted;
            }
            line.push_str(cell.symbol());
        }
        if !style.is_empty() {
            line.push_str("\u{1b}[0m");
        }
        lines.push(if colours { line } else { line.trim_end().to_owned() });
    }
    lines.join("\n")
}

fn codes(fg: Color, bg: Color, modifier: Modifier) -> String {
    let mut codes = String::new();
    if modifier.contains(Modifier::BOLD) {
        codes.push_str(";1");
    }
    if modifier.contains(Modifier::UNDERLINED) {
        codes.push_str(";4");
    }
    codes.push_str(match fg {
        Color::Green => ";32",
        Color::Yellow => ";33",
        Color::DarkGray => ";90",
        Color::White => ";97",
        _ => "",
    });
    codes.push_str(if bg == Color::Red { ";41" } else { "" });
    codes
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::model::tests::looked_at_twice;
    use super::*;

    fn shown(model: &Model, columns: u16, lines: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        text(terminal.backend().buffer(), false)
    }

    #[test]
    fn screen_when_drawn_shows_pairs_rates_paths_and_reasons() {
        let mut model = looked_at_twice();
        let screen = shown(&model, 120, 12);
        for words in [
            "shared memory 2   TCP 1",
            "upgrades 2/s",
            "no-twin 1",
            "5.1 KiB/s",
            "5.0 KiB/s",
            "▁█",
            "25%",
            "1m01s",
            "  refused: the other end did not offer this connection",
        ] {
            assert!(screen.contains(words), "{words:?} is missing in\n{screen}");
        }
        model.lost("the host service does not answer".into());
        assert!(shown(&model, 120, 12).contains("does not answer; asking again"));
    }

    #[test]
    fn screen_when_it_is_tiny_or_empty_is_drawn_all_the_same() {
        for (columns, lines) in [(10, 10), (40, 10), (500, 10)] {
            shown(&looked_at_twice(), columns, lines);
        }
        assert!(shown(&Model::default(), 110, 12).contains("no connection yet"));
    }

    #[test]
    fn lines_when_there_are_more_than_fit_scroll_to_the_last_and_no_further() {
        let mut model = looked_at_twice();
        model.scroll(50);
        let screen = shown(&model, 120, 8);
        assert!(
            !screen.contains("db ") && screen.contains("refused: the other end"),
            "two lines fit, those of the last:\n{screen}"
        );
    }

    #[test]
    fn text_when_coloured_has_the_terminals_codes_and_without_has_none() {
        let mut terminal = Terminal::new(TestBackend::new(110, 12)).unwrap();
        terminal.draw(|frame| draw(frame, &looked_at_twice())).unwrap();
        assert!(text(terminal.backend().buffer(), true).contains("\u{1b}[0;1;32m2"));
        let mut buffer = terminal.backend().buffer().clone();
        without_colours(&mut buffer);
        assert!(!text(&buffer, true).contains(";32m"));
        assert!(!text(&buffer, false).contains('\u{1b}'));
    }
}
