//! The picture on a terminal of any size.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Paragraph, Row as Cells, Table},
};

use control_api::native::State;

use super::{
    super::common,
    model::Model,
    rates::{GuestRow, Row},
    table::{COLUMNS, Column, IMAGE, about, guests, summary},
};

/// What is left for the image before columns are left out for it.
const IMAGE_WIDTH_MIN: u16 = 20;

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let budget = model.budget().map(common::describe);
    let lines = Constraint::Length;
    let parts = [lines(1), lines(u16::from(budget.is_some())), Constraint::Min(0), lines(1)];
    let [head, below, list, foot] = Layout::vertical(parts).areas(frame.area());
    frame.render_widget(Paragraph::new(summary(model)).style(Modifier::BOLD), head);
    frame.render_widget(Paragraph::new(budget.unwrap_or_default()), below);
    draw_list(frame, model, list);
    frame.render_widget(Paragraph::new(footer(model)).style(Modifier::DIM), foot);
}

fn draw_list(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let shown = model.shown();
    if shown.is_empty() {
        let words = if model.disks() == 0 { "no disks" } else { "no disk matches the filter" };
        frame.render_widget(Paragraph::new(words), area);
        return;
    }
    let columns = columns_for(area.width);
    let image_width = usize::from(area.width.saturating_sub(width_of(&columns)));
    let head = columns.iter().map(|column| column.head).chain([IMAGE]);
    let rows = shown.iter().skip(model.first).flat_map(|row| {
        let guests = guests(model, row).iter().map(|guest| cells_of_guest(guest, &columns));
        std::iter::once(cells(row, &columns, image_width)).chain(guests)
    });
    let rows = rows.take(usize::from(area.height));
    let widths = columns.iter().map(|column| Constraint::Length(column.width)).chain([Constraint::Fill(1)]);
    let table = Table::new(rows, widths).column_spacing(1);
    frame.render_widget(table.header(Cells::new(head).style(Modifier::REVERSED)), area);
}

/// The columns that fit beside the image, the most important ones first, in their usual order.
fn columns_for(width: u16) -> Vec<Column> {
    let mut columns = COLUMNS.to_vec();
    while columns.len() > 1 && width_of(&columns) + IMAGE_WIDTH_MIN > width {
        let least = columns.iter().map(|column| column.rank).max();
        let place = columns.iter().rposition(|column| Some(column.rank) == least).expect("there are columns");
        columns.remove(place);
    }
    columns
}

/// What the columns take, with the blanks behind them.
fn width_of(columns: &[Column]) -> u16 {
    columns.iter().map(|column| column.width + 1).sum()
}

/// The end of a text that is too long: of a path the more telling part.
fn tail(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let end = text.chars().skip(length - width.saturating_sub(2));
    "..".chars().chain(end).collect()
}

fn cells<'a>(row: &Row, columns: &[Column], image_width: usize) -> Cells<'a> {
    let cells = columns.iter().map(|column| (column.cell)(row)).chain([tail(&row.image, image_width)]);
    Cells::new(cells.map(Line::from)).style(style(row))
}

fn cells_of_guest<'a>(guest: &GuestRow, columns: &[Column]) -> Cells<'a> {
    let cells = columns.iter().map(|column| (column.guest)(guest)).chain([about(guest)]);
    let style = match guest {
        GuestRow { broken: Some(_), .. } => Color::Red.into(),
        GuestRow { requests: Some(rate), .. } if *rate > 0.0 => Style::new(),
        _ => Modifier::DIM.into(),
    };
    Cells::new(cells.map(Line::from)).style(style)
}

/// What needs somebody is red, what only waits is yellow, what does nothing is dim.
fn style(row: &Row) -> Style {
    let is_new_error = row.rates.is_some_and(|rates| rates.errors > 0.0);
    match row.state {
        State::Stuck | State::ResumeFailed => Color::Red.into(),
        _ if row.trouble || is_new_error => Color::Red.into(),
        State::Running if row.waiting > 0 => Color::Yellow.into(),
        State::Running if row.in_flight > 0 || row.rates.is_some_and(|rates| rates.requests > 0.0) => Style::new(),
        State::Running | State::Attached | State::Closed => Modifier::DIM.into(),
        _ => Color::Yellow.into(),
    }
}

fn footer(model: &Model) -> String {
    if model.is_typing {
        return format!("filter: {}_   (Enter keeps it, Esc drops it)", model.filter);
    }
    if let Some(trouble) = &model.trouble {
        return trouble.clone();
    }
    let filter = if model.filter.is_empty() { String::new() } else { format!(", only {:?}", model.filter) };
    let reversed = if model.reversed { ", reversed" } else { "" };
    let paused = if model.is_paused { "STOPPED, space goes on | " } else { "" };
    format!(
        "{paused}by {}{reversed}{filter} | q quit, s sort (l i b p e n), r reverse, / filter, g guests, space stop, arrows",
        model.order.name()
    )
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            model::{Key, Order},
            rates::tests::{look, look_with_guest},
        },
        *,
    };
    use ratatui::{Terminal, backend::TestBackend};
    use std::time::{Duration, Instant};

    fn model() -> Model {
        let mut model = Model::new(Order::Load, String::new());
        let start = Instant::now();
        model.take(look(start, 1000));
        model.take(look(start + Duration::from_secs(1), 13_000));
        model
    }

    /// The lines of a terminal of this size, without blanks at their ends.
    fn lines(model: &Model, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    #[test]
    fn a_wide_terminal_shows_everything() {
        assert_eq!(
            lines(&model(), 130, 5),
            [
                "2 disks, 12000 IOPS, reading 46.8 MiB/s, writing 0 B/s, load 1.2",
                "DISK         STATE         IOPS     READ/s      WRITE/s     LOAD   P50      P99      BUSY    ERRORS  \
                 IMAGE",
                "70:3         running       12000    46.8 MiB    0 B         1.2    127 us   1.02 ms  2       1300    \
                 vhd:/images/a.vhd",
                "70:4         running       0        0 B         0 B         0.0    -        -        0       0       \
                 vhd:/images/b.vhd",
                "by load | q quit, s sort (l i b p e n), r reverse, / filter, g guests, space stop, arrows",
            ]
        );
    }

    #[test]
    fn a_narrow_terminal_shows_what_matters_most() {
        assert_eq!(
            lines(&model(), 48, 4),
            [
                "2 disks, 12000 IOPS, reading 46.8 MiB/s, writing",
                "DISK         IOPS     IMAGE",
                "70:3         12000    vhd:/images/a.vhd",
                "by load | q quit, s sort (l i b p e n), r revers",
            ]
        );
    }

    fn model_with_guest() -> Model {
        let mut model = Model::new(Order::Load, String::new()).with_guests(true);
        let start = Instant::now();
        model.take(look_with_guest(start, 1000));
        model.take(look_with_guest(start + Duration::from_secs(1), 13_000));
        model
    }

    #[test]
    fn g_shows_guests_below_their_disks_and_hides_them() {
        let mut model = model_with_guest();
        let shown = lines(&model, 130, 7);
        assert_eq!(
            shown[1],
            "grant budget: 264 of 300 pages copied, 4 of 400 mapped, 2 disks, 1 waiting, 3 waits so far (1.02 ms)"
        );
        assert!(shown[3].starts_with("70:3 ") && shown[5].starts_with("70:4 "), "{shown:?}");
        let guest = " 7-51712     2 rings       12000";
        let pages = "22 granted, 4 mapped, 3 held";
        assert!(shown[4].starts_with(guest) && shown[4].contains(pages), "{shown:?}");
        model.press(Key::Letter('g'));
        let shown = lines(&model, 130, 7);
        assert!(shown[4].starts_with("70:4 ") && shown[5].is_empty(), "{shown:?}");
    }

    #[test]
    fn in_a_narrow_terminal_of_a_guest_there_is_what_matters_most() {
        assert_eq!(
            lines(&model_with_guest(), 48, 6),
            [
                "2 disks, 12000 IOPS, reading 46.8 MiB/s, writing",
                "grant budget: 264 of 300 pages copied, 4 of 400",
                "DISK         IOPS     IMAGE",
                "70:3         12000    vhd:/images/a.vhd",
                " 7-51712     12000    22 granted, 4 mapped, 3 he",
                "by load | q quit, s sort (l i b p e n), r revers",
            ]
        );
    }

    #[test]
    fn no_terminal_is_too_small() {
        for (width, height) in [(1, 1), (2, 2), (5, 1), (1, 9), (20, 3)] {
            lines(&model(), width, height);
            lines(&model_with_guest(), width, height);
        }
    }

    #[test]
    fn of_a_long_path_the_end_is_shown() {
        assert_eq!(tail("vhd:/images/a.vhd", 17), "vhd:/images/a.vhd");
        assert_eq!(tail("vhd:/images/a.vhd", 9), "..s/a.vhd");
        assert_eq!(tail("vhd:/images/a.vhd", 0), "..");
    }

    #[test]
    fn an_empty_list_says_why() {
        let mut model = model();
        for key in ['/', 'x', 'x'].map(Key::Letter) {
            model.press(key);
        }
        let shown = lines(&model, 60, 3);
        assert_eq!(shown[1..], ["no disk matches the filter", "filter: xx_   (Enter keeps it, Esc drops it)"]);
        assert_eq!(lines(&Model::new(Order::Load, String::new()), 60, 3)[1], "no disks");
    }

    #[test]
    fn the_list_begins_where_it_was_scrolled_to() {
        let mut model = model();
        model.press(Key::Down);
        assert!(lines(&model, 130, 5)[2].starts_with("70:4"));
    }
}
