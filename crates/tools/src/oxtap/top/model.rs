//! What is shown, and in which order: everything about `top` but letters on a terminal.

use clap::ValueEnum;
use xen::budget::BudgetAccount;

use super::{
    super::words,
    rates::{Look, Rates, Row, rows},
};

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Requests in the disk, on average.
    #[default]
    Load,
    /// Requests for each second.
    Iops,
    /// Bytes for each second.
    Bandwidth,
    /// The time in which 99 of 100 requests are served.
    Latency,
    /// Failed requests.
    Errors,
    /// The name of the image, from A to Z.
    Image,
}

impl Order {
    /// What stands above the list.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Order::Load => "load",
            Order::Iops => "IOPS",
            Order::Bandwidth => "bandwidth",
            Order::Latency => "latency",
            Order::Errors => "errors",
            Order::Image => "image",
        }
    }

    /// How much there is of it in a row; more comes first.
    fn weight(self, row: &Row) -> f64 {
        let rates = row.rates.unwrap_or_default();
        match self {
            Order::Load => rates.load,
            Order::Iops => rates.requests,
            Order::Bandwidth => rates.read_bytes + rates.written_bytes,
            Order::Latency => rates.p99_us.unwrap_or_default() as f64,
            Order::Errors => row.errors as f64,
            Order::Image => 0.0,
        }
    }
}

/// What was pressed, as far as it means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Letter(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    Enter,
    Escape,
    Backspace,
    Interrupt,
}

/// All that the picture is made from.
pub(super) struct Model {
    pub(super) order: Order,
    pub(super) reversed: bool,
    pub(super) filter: String,
    /// Whether letters go into the filter.
    pub(super) is_typing: bool,
    /// The first row that is shown.
    pub(super) first: usize,
    pub(super) is_paused: bool,
    /// Whether guests stand below their disks.
    pub(super) shows_guests: bool,
    last: Option<Look>,
    rows: Vec<Row>,
    silent: Vec<u32>,
    /// Why the last look failed.
    pub(super) trouble: Option<String>,
}

/// Rows of a page, for keys that move by one.
const PAGE: usize = 10;

impl Model {
    pub(super) fn new(order: Order, filter: String) -> Model {
        Model {
            order,
            filter,
            reversed: false,
            is_typing: false,
            first: 0,
            is_paused: false,
            shows_guests: false,
            last: None,
            rows: Vec::new(),
            silent: Vec::new(),
            trouble: None,
        }
    }

    /// The same, with guests below their disks or without.
    pub(super) fn with_guests(self, shows_guests: bool) -> Model {
        Model { shows_guests, ..self }
    }

    /// Takes another look in.
    pub(super) fn take(&mut self, look: Look) {
        self.trouble = None;
        if self.is_paused {
            return;
        }
        self.rows = rows(self.last.as_ref(), &look);
        self.silent = look.processes.iter().filter(|process| process.is_silent()).map(|process| process.pid).collect();
        self.last = Some(look);
        self.first = self.first.min(self.shown().len().saturating_sub(1));
    }

    /// The rows that the filter lets through, in order.
    pub(super) fn shown(&self) -> Vec<&Row> {
        let mut shown: Vec<&Row> = self.rows.iter().filter(|row| self.lets_through(row)).collect();
        shown.sort_by(|one, other| {
            let by_weight = self.order.weight(other).total_cmp(&self.order.weight(one));
            let by_name = (&one.image, one.pid, one.minor).cmp(&(&other.image, other.pid, other.minor));
            by_weight.then(by_name)
        });
        if self.reversed {
            shown.reverse();
        }
        shown
    }

    fn lets_through(&self, row: &Row) -> bool {
        let mut text = format!("{}:{} {} {}", row.pid, row.minor, words::state(row.state), row.image);
        row.guests.iter().for_each(|guest| text += &format!(" {}-{}", guest.domain, guest.device));
        text.to_lowercase().contains(&self.filter.to_lowercase())
    }

    /// How many disks there are, shown or not.
    pub(super) fn disks(&self) -> usize {
        self.rows.len()
    }

    /// What all guests use together, if there is a budget.
    pub(super) fn budget(&self) -> Option<&BudgetAccount> {
        self.last.as_ref()?.budget.as_ref()
    }

    /// Tapdisks that do not answer.
    pub(super) fn silent(&self) -> &[u32] {
        &self.silent
    }

    /// All disks together.
    pub(super) fn sum(&self) -> Rates {
        let mut sum = Rates::default();
        for rates in self.rows.iter().filter_map(|row| row.rates) {
            sum.requests += rates.requests;
            sum.read_bytes += rates.read_bytes;
            sum.written_bytes += rates.written_bytes;
            sum.load += rates.load;
            sum.errors += rates.errors;
        }
        sum
    }

    /// Does what a key means; false if it means the end.
    pub(super) fn press(&mut self, key: Key) -> bool {
        if key == Key::Interrupt {
            return false;
        }
        if self.is_typing {
            self.edit(key);
            return true;
        }
        self.command(key)
    }

    fn edit(&mut self, key: Key) {
        match key {
            Key::Letter(letter) => self.filter.push(letter),
            Key::Backspace => _ = self.filter.pop(),
            Key::Enter => self.is_typing = false,
            Key::Escape => {
                self.is_typing = false;
                self.filter.clear();
            }
            _ => {}
        }
        self.first = 0;
    }

    fn command(&mut self, key: Key) -> bool {
        let last = self.shown().len().saturating_sub(1);
        match key {
            Key::Letter('q') => return false,
            Key::Escape if self.filter.is_empty() => return false,
            Key::Escape => self.filter.clear(),
            Key::Letter('/' | 'f') => self.is_typing = true,
            Key::Letter('r') => self.reversed = !self.reversed,
            Key::Letter('g') => self.shows_guests = !self.shows_guests,
            Key::Letter(' ') => self.is_paused = !self.is_paused,
            Key::Letter(letter) => self.order_by(letter),
            Key::Up => self.first = self.first.saturating_sub(1),
            Key::Down => self.first = (self.first + 1).min(last),
            Key::PageUp => self.first = self.first.saturating_sub(PAGE),
            Key::PageDown => self.first = (self.first + PAGE).min(last),
            Key::Home => self.first = 0,
            _ => {}
        }
        true
    }

    fn order_by(&mut self, letter: char) {
        self.order = match letter {
            'l' => Order::Load,
            'i' => Order::Iops,
            'b' => Order::Bandwidth,
            'p' => Order::Latency,
            'e' => Order::Errors,
            'n' => Order::Image,
            's' => {
                let orders = Order::value_variants();
                let place = orders.iter().position(|order| *order == self.order).unwrap_or_default();
                orders[(place + 1) % orders.len()]
            }
            _ => return,
        };
        self.first = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::rates::tests::{look, look_with_guest},
        *,
    };
    use std::time::{Duration, Instant};

    fn model() -> Model {
        let mut model = Model::new(Order::Load, String::new());
        let start = Instant::now();
        model.take(look(start, 1000));
        model.take(look(start + Duration::from_secs(1), 2000));
        model
    }

    fn images(model: &Model) -> Vec<&str> {
        model.shown().iter().map(|row| row.image.as_str()).collect()
    }

    #[test]
    fn the_busiest_comes_first_and_r_turns_it_round() {
        let mut model = model();
        assert_eq!(images(&model), ["vhd:/images/a.vhd", "vhd:/images/b.vhd"]);
        assert!(model.press(Key::Letter('r')));
        assert_eq!(images(&model), ["vhd:/images/b.vhd", "vhd:/images/a.vhd"]);
        assert!(model.press(Key::Letter('n')));
        assert_eq!(model.order, Order::Image);
    }

    #[test]
    fn a_filter_is_typed_and_taken_back() {
        let mut model = model();
        for key in [Key::Letter('/'), Key::Letter('B'), Key::Letter('.'), Key::Letter('q'), Key::Backspace] {
            assert!(model.press(key), "letters go into the filter");
        }
        assert_eq!(images(&model), ["vhd:/images/b.vhd"]);
        model.press(Key::Enter);
        assert!(!model.is_typing);
        assert!(model.press(Key::Escape), "the first takes the filter back");
        assert_eq!(images(&model).len(), 2);
        assert!(!model.press(Key::Escape));
    }

    #[test]
    fn a_disk_is_found_by_its_guest() {
        let mut model = Model::new(Order::Load, "7-51712".to_owned());
        model.take(look_with_guest(Instant::now(), 1000));
        assert_eq!(images(&model), ["vhd:/images/a.vhd"]);
        let mut shows_guests = || {
            assert!(model.press(Key::Letter('g')));
            model.shows_guests
        };
        assert_eq!([shows_guests(), shows_guests()], [true, false]);
    }

    #[test]
    fn q_and_ctrl_c_end_it() {
        let mut model = model();
        assert!(!model.press(Key::Letter('q')));
        model.press(Key::Letter('/'));
        assert!(!model.press(Key::Interrupt), "also while a filter is typed");
    }

    #[test]
    fn nobody_scrolls_behind_the_end() {
        let mut model = model();
        for _ in 0..5 {
            model.press(Key::Down);
        }
        assert_eq!(model.first, 1);
        model.press(Key::PageUp);
        assert_eq!(model.first, 0);
    }

    #[test]
    fn a_picture_that_stands_still_ignores_new_looks() {
        let mut model = model();
        model.press(Key::Letter(' '));
        let before = model.sum();
        model.take(look(Instant::now() + Duration::from_secs(9), 9000));
        assert_eq!(model.sum(), before);
    }

    #[test]
    fn s_goes_through_all_orders() {
        let mut model = model();
        let seen: Vec<&str> = (0..Order::value_variants().len())
            .map(|_| {
                model.press(Key::Letter('s'));
                model.order.name()
            })
            .collect();
        assert_eq!(seen, ["IOPS", "bandwidth", "latency", "errors", "image", "load"]);
    }
}
