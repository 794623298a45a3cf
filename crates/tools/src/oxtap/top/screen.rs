//! The terminal: taken, drawn on, given back - also when something goes wrong.

use std::{
    io::stdout,
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use block_core::{Result, ResultExt};
use control_api::RunDir;
use ratatui::{
    DefaultTerminal,
    crossterm::{
        cursor,
        event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
        execute,
    },
};
use rustix::process::Signal;
use storage_io::Signals;

use super::{
    super::interrupt,
    look,
    model::{Key, Model},
    rates::Look,
    view,
};

/// How long a key may wait for us to look.
const KEYS_EVERY: Duration = Duration::from_millis(50);
/// How long the last picture may take when we are told to end; a terminal that takes nothing more is not waited for.
const LAST_PICTURE_MAX: Duration = Duration::from_millis(300);

/// Shows the disks until somebody has seen enough.
pub(super) fn run(run: RunDir, mut model: Model, interval: Duration) -> Result<()> {
    // Ctrl-C is a key here; the others end the process, which must leave a usable terminal. Before any thread.
    let signals = Signals::take(&[Signal::TERM, Signal::HUP])?;
    let mut terminal = take()?;
    let is_over = Arc::new(AtomicBool::new(false));
    end_on(signals, Arc::clone(&is_over))?;
    let (stop, stopped) = channel();
    let (sender, looks) = sync_channel(1);
    thread::spawn(move || gather(&run, interval, &sender, &stopped));
    let result = show(&mut terminal, &mut model, &looks, &is_over);
    drop(stop);
    give_back();
    if is_over.load(Relaxed) {
        // The thread that was told ends the process, with the status that goes with the signal.
        thread::park();
    }
    result.context("terminal")
}

/// Takes the terminal. A panic gives it back, with the cursor, before it is told.
fn take() -> Result<DefaultTerminal> {
    let terminal = ratatui::try_init().context("terminal")?;
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panicked| {
        give_back();
        tell(panicked);
    }));
    Ok(terminal)
}

/// On a signal: lets the picture come to its end, so that nothing is drawn behind it, and then ends the process.
fn end_on(signals: Signals, is_over: Arc<AtomicBool>) -> Result<()> {
    interrupt::end_on(signals, move || {
        is_over.store(true, Relaxed);
        thread::sleep(LAST_PICTURE_MAX);
        give_back();
    })
}

/// Leaves the terminal as it was. Doing it twice does no harm.
fn give_back() {
    ratatui::restore();
    // A terminal that is gone needs no cursor.
    let _ = execute!(stdout(), cursor::Show);
}

/// Looks again and again until nobody wants to see it.
fn gather(run: &RunDir, interval: Duration, looks: &SyncSender<Result<Look>>, stopped: &Receiver<()>) {
    while looks.send(look(run)).is_ok() {
        if !matches!(stopped.recv_timeout(interval), Err(RecvTimeoutError::Timeout)) {
            return;
        }
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    model: &mut Model,
    looks: &Receiver<Result<Look>>,
    is_over: &AtomicBool,
) -> std::io::Result<()> {
    let mut changed = true;
    while !is_over.load(Relaxed) {
        for look in looks.try_iter() {
            match look {
                Ok(look) => model.take(look),
                Err(error) => model.trouble = Some(error.to_string()),
            }
            changed = true;
        }
        if changed {
            terminal.draw(|frame| view::draw(frame, model))?;
        }
        changed = event::poll(KEYS_EVERY)?;
        if !changed {
            continue;
        }
        if let Event::Key(pressed) = event::read()?
            && let Some(key) = key(pressed)
            && !model.press(key)
        {
            break;
        }
    }
    Ok(())
}

fn key(pressed: KeyEvent) -> Option<Key> {
    if pressed.kind == KeyEventKind::Release {
        return None;
    }
    Some(match pressed.code {
        KeyCode::Char('c') if pressed.modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        KeyCode::Char(letter) => Key::Letter(letter),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}
