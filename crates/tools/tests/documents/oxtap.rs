//! The manual pages of `oxtap` say what its help says: both come from one definition.

use clap::CommandFactory;
use clap_mangen::Man;
use tools::oxtap::arguments::Arguments;

use super::check;

#[test]
fn the_manual_pages_of_oxtap_are_those_of_its_arguments() {
    check("docs/man", &pages().into_iter().collect());
}

/// `oxtap.1`, and one page for each command, and for each command of a command.
fn pages() -> Vec<(String, String)> {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    let mut pages = vec![("oxtap.1".to_owned(), render(command.clone()))];
    add_commands(&command, &mut pages);
    pages
}

fn add_commands(command: &clap::Command, pages: &mut Vec<(String, String)>) {
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        let name = subcommand.get_display_name().expect("a command that was built has its whole name");
        pages.push((format!("{name}.1"), render(subcommand.clone())));
        add_commands(subcommand, pages);
    }
}

fn render(command: clap::Command) -> String {
    let mut page = Vec::new();
    Man::new(command).render(&mut page).expect("memory takes every byte");
    String::from_utf8(page).expect("our words are UTF-8")
}
