//! `shmbc top`: a live view of who talks to whom, how fast and by which path.
//!
//! A thread asks the service in even steps; what it says goes into the [`model`], which [`screen`] draws. Keys change the model,
//! never what is asked.

mod model;
mod screen;

use std::io::IsTerminal;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use shmbc::control::client::Client;
use shmbc::control::message::{ConnectionRow, Status};

use self::model::{Model, Sort};
use crate::list::{Socket, no_color};

pub(crate) const HELP: &str = "\
Keys:
  r c b n a   sort by rate, connections, bytes, name, age
  g           pairs of containers, or single connections
  /           filter by a part of a name, address, process or reason; Escape ends it
  space       hold still
  up, down    scroll
  q           quit";

/// How long to wait for a key before looking whether the service has answered.
const KEYS: Duration = Duration::from_millis(50);

/// Arguments of `shmbc top`.
#[derive(Debug, Args)]
pub(crate) struct Top {
    #[command(flatten)]
    socket: Socket,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = crate::rows::seconds)]
    interval: Duration,
    /// Print one picture instead, after two looks. Needs no terminal.
    #[arg(long)]
    once: bool,
    /// With --once: columns and lines.
    #[arg(long, value_name = "COLUMNSxLINES", default_value = "110x28", value_parser = size)]
    size: (u16, u16),
    /// With --once: colours although it is no terminal.
    #[arg(long)]
    color: bool,
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let parse = |text: &str| text.parse().ok().filter(|n| (10..=500).contains(n));
    let size = text.split_once('x').and_then(|(columns, lines)| Some((parse(columns)?, parse(lines)?)));
    size.ok_or_else(|| "expected COLUMNSxLINES, 10 to 500 each, such as 110x28".into())
}

/// What the service says at one look, or why it says nothing.
type Look = Result<(Status, Vec<ConnectionRow>), String>;

pub(crate) fn run(top: &Top) -> Result<(), String> {
    // At the first look an error ends the program; later ones are shown, and it may come back.
    let mut client = Some(top.socket.client()?);
    let mut model = Model::default();
    model.take(look(&mut client, &top.socket)?, Instant::now());
    if top.once {
        std::thread::sleep(top.interval);
        model.take(look(&mut client, &top.socket)?, Instant::now());
        return picture(&model, top);
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err("top needs a terminal; --once prints one picture without, and `shmbc ss` lists".into());
    }
    let (told, looks) = mpsc::channel();
    let (socket, interval) = (top.socket.clone(), top.interval);
    std::thread::spawn(move || keep_looking(client, &socket, interval, &told));
    // Restores the terminal at a panic, too.
    let terminal = ratatui::try_init().map_err(|e| format!("the terminal cannot be used: {e}"))?;
    let result = live(terminal, model, &looks);
    ratatui::restore();
    result
}

/// Asks by the session that there is, or a new one; after an error there is none.
fn look(client: &mut Option<Client>, socket: &Socket) -> Look {
    let asked = match client.take() {
        Some(client) => client,
        None => socket.client()?,
    };
    let status = asked.status().map_err(|e| e.to_string())?;
    let rows = asked.connections().map_err(|e| e.to_string())?;
    *client = Some(asked);
    Ok((status, rows))
}

/// Looks until nobody listens.
fn keep_looking(mut client: Option<Client>, socket: &Socket, interval: Duration, told: &Sender<Look>) {
    loop {
        std::thread::sleep(interval);
        if told.send(look(&mut client, socket)).is_err() {
            return;
        }
    }
}

fn live(mut terminal: ratatui::DefaultTerminal, mut model: Model, looks: &Receiver<Look>) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("the terminal cannot be used: {e}");
    let plain = no_color();
    loop {
        terminal
            .draw(|frame| {
                screen::draw(frame, &model);
                if plain {
                    screen::without_colours(frame.buffer_mut());
                }
            })
            .map_err(failed)?;
        if event::poll(KEYS).map_err(failed)?
            && let Event::Key(key) = event::read().map_err(failed)?
            && key.kind == KeyEventKind::Press
            && !press(&mut model, key)
        {
            return Ok(());
        }
        for look in looks.try_iter() {
            match look {
                Ok(look) => model.take(look, Instant::now()),
                Err(why) => model.lost(why),
            }
        }
    }
}

/// What a key does; false ends the program.
fn press(model: &mut Model, key: KeyEvent) -> bool {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return key.code != KeyCode::Char('c');
    }
    match key.code {
        KeyCode::Up => model.scroll(-1),
        KeyCode::Down => model.scroll(1),
        KeyCode::PageUp => model.scroll(-10),
        KeyCode::PageDown => model.scroll(10),
        code if model.is_typing() => match code {
            KeyCode::Esc => model.end_filter(false),
            KeyCode::Enter => model.end_filter(true),
            KeyCode::Backspace => model.erase(),
            KeyCode::Char(letter) => model.type_letter(letter),
            _ => {}
        },
        KeyCode::Char('q') => return false,
        KeyCode::Char('r') => model.sort_by(Sort::Rate),
        KeyCode::Char('c') => model.sort_by(Sort::Connections),
        KeyCode::Char('b') => model.sort_by(Sort::Bytes),
        KeyCode::Char('n') => model.sort_by(Sort::Name),
        KeyCode::Char('a') => model.sort_by(Sort::Age),
        KeyCode::Char('g') => model.toggle_grouped(),
        KeyCode::Char('/') => model.begin_filter(),
        KeyCode::Char(' ') => model.toggle_paused(),
        KeyCode::Esc => model.end_filter(false),
        _ => {}
    }
    true
}

/// One frame as text.
fn picture(model: &Model, top: &Top) -> Result<(), String> {
    let (columns, lines) = top.size;
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).map_err(|e| e.to_string())?;
    terminal.draw(|frame| screen::draw(frame, model)).map_err(|e| e.to_string())?;
    let colours = top.color || (std::io::stdout().is_terminal() && !no_color());
    crate::print_text(&screen::text(terminal.backend().buffer(), colours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_when_a_filter_is_typed_are_its_letters_and_mean_nothing_else() {
        let mut model = Model::default();
        let mut type_in =
            |text: &str| text.chars().all(|letter| press(&mut model, KeyEvent::from(KeyCode::Char(letter))));
        assert!(type_in("/quarry"));
        assert_eq!(model.filter(), "quarry");
        assert!(press(&mut model, KeyEvent::from(KeyCode::Enter)));
        assert!(!press(&mut model, KeyEvent::from(KeyCode::Char('q'))), "now it quits");
        assert_eq!(model.filter(), "quarry");
        assert!(press(&mut model, KeyEvent::from(KeyCode::Esc)));
        assert_eq!(model.filter(), "");
        assert!(!press(&mut model, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    }
}
