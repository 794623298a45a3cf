//! Jobs of the native protocol: numbered, ordered, watched and cancelled, whoever comes and goes.

use std::thread::{self, JoinHandle};

use control_api::{
    errno,
    native::{AnswerBody, Client, Command, Done, Faults, JobState, OpenImages, OutcomeOfJob, ResultOf, State},
    reason,
};
use export::nbd;

use crate::host::{Host, aio, eventually, minor};

/// Writes hang, and so does whatever waits for them.
const HANG: &str = "write=hang";

fn pause(deadline_ms: Option<u64>) -> Command {
    Command::Pause { minor: 0, deadline_ms }
}

fn resume() -> Command {
    Command::Resume { minor: 0, image: None }
}

fn close() -> Command {
    Command::Close { minor: 0, force: false, deadline_ms: None }
}

fn faults(rules: &str) -> Command {
    Command::Faults(Faults { minor: 0, rules: rules.into() })
}

/// A disk with one write that hangs until the rules change; whether the write was done in the end.
struct Hung {
    host: Host,
    pid: u32,
    writing: JoinHandle<bool>,
}

impl Hung {
    fn new() -> Hung {
        let host = Host::new();
        let (pid, _) = host.attached(1);
        let mut client = host.native(pid);
        let image = aio(&host.raw_image("a.img", 1 << 20));
        let faults = Some(HANG.into());
        client.ask(Command::Open(OpenImages { minor: 0, image, faults, ..OpenImages::default() })).unwrap();
        let mut nbd = nbd::client::Client::connect_unix(&host.run.nbd_socket(pid, minor("0")), "").unwrap();
        let writing = thread::spawn(move || nbd.write(0x1000, &[2; 4096]).is_ok());
        eventually("the write hangs", || client.list().unwrap()[0].in_flight == 1);
        Hung { host, pid, writing }
    }

    fn client(&self) -> Client {
        self.host.native(self.pid)
    }

    fn state(&self) -> State {
        self.client().list().unwrap()[0].state
    }

    /// Begins a job, and gives its number.
    fn begin(&self, client: &mut Client, command: Command) -> u64 {
        client.begin(command).unwrap();
        let AnswerBody::Progress(progress) = client.next_answer().unwrap().body else {
            panic!("the first answer tells the number")
        };
        progress.job
    }

    fn let_go(&self) {
        assert_eq!(self.client().ask(faults("")).unwrap(), ResultOf::Faults(Done {}));
    }
}

#[test]
fn a_pause_that_waits_blocks_nobody_who_asks() {
    let hung = Hung::new();
    let mut waiting = hung.client();
    let job = hung.begin(&mut waiting, pause(None));
    eventually("the pause waits", || hung.state() == State::Pausing);
    let mut client = hung.client();
    let disk = client.list().unwrap().remove(0);
    assert_eq!((disk.job, disk.step.as_deref()), (Some(job), Some("waiting for requests to end")));
    let stats = client.stats(Some(0)).unwrap().disks.remove(0);
    let running = &stats.running[0];
    assert_eq!((running.kind.as_str(), running.offset, running.length), ("write", 0x1000, 4096));
    // Also in the other protocol, and what event loops do.
    assert!(hung.host.ok(&["list"]).contains("state=0x14"));
    // Who waits is told for what, again and again.
    let mut told = 0;
    while told < 2 {
        let AnswerBody::Progress(made) = waiting.next_answer().unwrap().body else { panic!("it cannot end") };
        told += u32::from(made.step == "waiting for requests to end" && (made.job, made.in_flight) == (job, 1));
    }
    let ResultOf::Dump(dump) = client.ask(Command::Dump {}).unwrap() else { panic!("a dump") };
    assert!(dump.loops.iter().any(|of| of.minor == Some(0) && !of.turns.is_empty()), "{dump:?}");
    hung.let_go();
    let mut progress = None;
    let result = hung.client().ask_watching(Command::Watch { job }, |made| progress = Some(made.clone())).unwrap();
    let ResultOf::Pause(quiet) = result else { panic!("{result:?}") };
    assert_eq!(quiet.requests, 1);
    assert_eq!(hung.state(), State::Paused);
    assert!(hung.writing.join().unwrap());
}

#[test]
fn a_pause_that_takes_too_long_tells_what_is_in_flight_and_the_disk_runs_on() {
    let hung = Hung::new();
    let error = hung.client().ask(pause(Some(20))).unwrap_err();
    assert_eq!(errno(&error), 110);
    assert!(reason(&error).contains("write 0x1000+0x1000"), "{error}");
    assert_eq!(hung.state(), State::Running);
    hung.let_go();
    assert!(hung.writing.join().unwrap());
}

#[test]
fn a_job_goes_on_when_its_client_has_gone_and_is_watched_by_another() {
    let hung = Hung::new();
    let mut client = hung.client();
    let job = hung.begin(&mut client, pause(None));
    drop(client);
    let mut watching = [(); 2].map(|()| hung.client());
    for client in &mut watching {
        assert_eq!(hung.begin(client, Command::Watch { job }), job);
    }
    hung.let_go();
    for client in watching {
        let result = last_answer(client);
        assert!(matches!(result, Ok(ResultOf::Pause(_))), "{result:?}");
    }
    // It is remembered, also for those who come later.
    let mut client = hung.client();
    assert!(matches!(client.ask(Command::Watch { job }).unwrap(), ResultOf::Pause(_)));
    let ResultOf::Jobs(jobs) = client.ask(Command::Jobs {}).unwrap() else { panic!("jobs") };
    let listed = jobs.jobs.iter().find(|listed| listed.job == job).unwrap();
    assert_eq!((listed.state, listed.command.as_str()), (JobState::Ended, "pause"));
    assert!(matches!(&listed.outcome, Some(OutcomeOfJob::Result(_))));
    assert!(hung.writing.join().unwrap());
}

/// What comes at the end of what was begun here.
fn last_answer(mut client: Client) -> Result<ResultOf, i32> {
    loop {
        match client.next_answer().unwrap().body {
            AnswerBody::Progress(_) | AnswerBody::Event(_) => {}
            AnswerBody::Result(result) => return Ok(*result),
            AnswerBody::Error(failure) => return Err(failure.errno),
        }
    }
}

#[test]
fn a_pause_is_turned_back_while_it_waits() {
    let hung = Hung::new();
    let mut client = hung.client();
    let job = hung.begin(&mut client, pause(None));
    eventually("the pause waits", || hung.state() == State::Pausing);
    let cancel = || {
        let ResultOf::Cancel(cancel) = hung.client().ask(Command::Cancel { job }).unwrap() else { panic!("cancel") };
        cancel.cancelled
    };
    assert!(cancel());
    assert_eq!(last_answer(client), Err(125));
    assert_eq!(hung.state(), State::Running);
    assert!(!cancel(), "it has ended");
    hung.let_go();
    assert!(hung.writing.join().unwrap());
}

#[test]
fn what_is_done_to_a_disk_is_done_in_order() {
    let hung = Hung::new();
    let mut clients: Vec<Client> = (0..4).map(|_| hung.client()).collect();
    let commands = [pause(None), resume(), pause(None), close()];
    let jobs: Vec<u64> =
        clients.iter_mut().zip(commands).map(|(client, command)| hung.begin(client, command)).collect();
    let states = || {
        let ResultOf::Jobs(list) = hung.client().ask(Command::Jobs {}).unwrap() else { panic!("jobs") };
        let state_of = |job: &u64| list.jobs.iter().find(|listed| listed.job == *job).unwrap().state;
        jobs.iter().map(state_of).collect::<Vec<JobState>>()
    };
    use JobState::{Running, Waiting};
    eventually("the first is done", || states() == [Running, Waiting, Waiting, Waiting]);
    // One that has not begun is simply left out. (A close of a paused disk is as good.)
    hung.client().ask(Command::Cancel { job: jobs[1] }).unwrap();
    hung.let_go();
    let [first, second, third, last] = clients.try_into().unwrap();
    assert!(matches!(last_answer(first), Ok(ResultOf::Pause(quiet)) if quiet.requests == 1));
    assert_eq!(last_answer(second), Err(125));
    assert!(matches!(last_answer(third), Ok(ResultOf::Pause(quiet)) if quiet.requests == 0));
    assert!(matches!(last_answer(last), Ok(ResultOf::Close(_))));
    assert_eq!(hung.state(), State::Closed);
    assert!(hung.writing.join().unwrap());
}

#[test]
fn a_job_that_waits_for_others_keeps_its_deadline() {
    let hung = Hung::new();
    let mut first = hung.client();
    hung.begin(&mut first, pause(None));
    let error = hung.client().ask(pause(Some(10))).unwrap_err();
    assert_eq!(errno(&error), 110);
    hung.let_go();
    assert!(matches!(last_answer(first), Ok(ResultOf::Pause(_))));
    assert!(hung.writing.join().unwrap());
}

#[test]
fn a_close_that_takes_too_long_is_continued_by_force() {
    let hung = Hung::new();
    let close = Command::Close { minor: 0, force: false, deadline_ms: Some(10) };
    let error = hung.client().ask(close).unwrap_err();
    assert_eq!(errno(&error), 110);
    assert!(reason(&error).contains("by force") && reason(&error).contains("write 0x1000+0x1000"), "{error}");
    assert_eq!(hung.state(), State::Stuck);
    let Hung { host, pid, writing } = hung;
    assert!(!writing.join().unwrap());
    assert_eq!(host.native(pid).ask(faults("")).unwrap(), ResultOf::Faults(Done {}));
    eventually("storage has let go", || host.native(pid).list().unwrap()[0].state == State::Closed);
}
