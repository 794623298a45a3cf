//! What takes time: following a job, leaving it, finding it again, turning it back.
//!
//! A job belongs to its tapdisk and not to us: whoever asked for it may go away, and it goes on.

use std::{
    io::{IsTerminal, stderr},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use block_core::{Error, ErrorKind, Result};
use control_api::{
    RunDir,
    native::{Client, Command, JobState, JobStatus, OutcomeOfJob, Progress, ResultOf},
};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::Signal;
use storage_io::Signals;

use super::{
    arguments::Jobs,
    host::{self, ANSWER_MAX, unexpected},
    size, text,
};

/// A tapdisk tells of a job at least every second; one that says nothing for this long does not answer.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// What ends sooner is not worth a line on a terminal.
pub(super) const QUICK_MS: u64 = 300;
/// How often the spinner turns.
const TURN_EVERY: Duration = Duration::from_millis(120);

/// What stands for JOB on the command line: `4711:9`, or `9`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobName {
    pid: Option<u32>,
    job: u64,
}

impl FromStr for JobName {
    type Err = Error;

    fn from_str(text: &str) -> Result<JobName> {
        let wrong = |_| Error::new(ErrorKind::Invalid, format!("{text:?} is not a job; oxtap jobs shows them"));
        match text.split_once(':') {
            Some((pid, job)) => {
                Ok(JobName { pid: Some(pid.parse().map_err(wrong)?), job: job.parse().map_err(wrong)? })
            }
            None => Ok(JobName { pid: None, job: text.parse().map_err(wrong)? }),
        }
    }
}

/// Takes Ctrl-C over, to say at the end what becomes of the job. Only before any thread is started.
pub(super) fn take_interrupt() -> Result<Signals> {
    Signals::take(&[Signal::INT])
}

/// Has a command carried out and shows how far it is. Ctrl-C leaves the job alone, and says how to find it again.
pub(super) fn follow(signals: Signals, run: &RunDir, pid: u32, command: Command) -> Result<ResultOf> {
    let mut client = Client::connect(run, pid, Some(SILENCE_MAX))?;
    let job = Arc::new(AtomicU64::new(0));
    let left = Arc::clone(&job);
    super::interrupt::end_on(signals, move || eprintln!("{}", farewell(pid, left.load(Relaxed))))?;
    let mut display = Display::new();
    let result = client.ask_watching(command, |progress| {
        job.store(progress.job, Relaxed);
        display.show(progress);
    });
    display.end();
    result
}

fn farewell(pid: u32, job: u64) -> String {
    match job {
        0 => "\noxtap: interrupted; oxtap jobs shows whether a job has begun".to_owned(),
        job => format!(
            "\noxtap: left job {pid}:{job} alone, it goes on: oxtap watch {pid}:{job} follows it, \
             oxtap cancel {pid}:{job} turns it back"
        ),
    }
}

/// How far a job is: a line that changes on a terminal, else one line for each step.
struct Display {
    bar: Option<ProgressBar>,
    is_terminal: bool,
    told: String,
}

impl Display {
    fn new() -> Display {
        Display { bar: None, is_terminal: stderr().is_terminal(), told: String::new() }
    }

    fn show(&mut self, progress: &Progress) {
        let words = words(progress);
        if self.is_terminal {
            if progress.age_ms >= QUICK_MS {
                self.bar.get_or_insert_with(spinner).set_message(words);
            }
        } else if words != self.told && progress.age_ms >= QUICK_MS {
            eprintln!("{words}");
            self.told = words;
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("the template is well-formed");
    let bar = ProgressBar::new_spinner().with_style(style.tick_chars("|/-\\ "));
    bar.enable_steady_tick(TURN_EVERY);
    bar
}

/// `pause of minor 4: waiting for requests to end, 3 requests in flight`
pub(super) fn words(progress: &Progress) -> String {
    let Progress { minor, command, step, in_flight, waiting, .. } = progress;
    let step = match progress.state {
        JobState::Waiting => "waiting for its turn",
        _ if step.is_empty() => "working",
        _ => step,
    };
    let mut words = format!("{command} of minor {minor}: {step}");
    if *in_flight > 0 {
        words += &format!(", {} in flight", size::count(*in_flight, "request"));
    }
    if *waiting > 0 {
        words += &format!(", {waiting} to be tried again");
    }
    words
}

/// A job, and whose it is.
struct Found {
    pid: u32,
    job: JobStatus,
}

/// `oxtap jobs`.
pub(super) fn list(arguments: &Jobs) -> Result<()> {
    let jobs = all(&RunDir::from_environment())?;
    if arguments.json {
        let list: Vec<serde_json::Value> = jobs
            .iter()
            .map(|Found { pid, job }| {
                let mut value = serde_json::to_value(job).expect("a job has text for keys");
                value["pid"] = (*pid).into();
                value
            })
            .collect();
        return text::print_json(&list);
    }
    text::print(&to_table(&jobs))
}

fn all(run: &RunDir) -> Result<Vec<Found>> {
    let of = run.clone();
    let answers = host::ask_all(&run.tapdisks()?, ANSWER_MAX, move |pid| jobs_of(&of, pid));
    let mut all = Vec::new();
    for (pid, jobs) in answers {
        match jobs {
            Some(Ok(jobs)) => all.extend(jobs.into_iter().map(|job| Found { pid, job })),
            // It has ended, or knows no jobs.
            Some(Err(error)) if host::is_nobody(&error) => {}
            Some(Err(_)) | None => eprintln!("oxtap: no answer from tapdisk {pid}"),
        }
    }
    Ok(all)
}

fn jobs_of(run: &RunDir, pid: u32) -> Result<Vec<JobStatus>> {
    match Client::connect(run, pid, Some(ANSWER_MAX))?.ask(Command::Jobs {})? {
        ResultOf::Jobs(list) => Ok(list.jobs),
        _ => Err(unexpected("jobs")),
    }
}

fn to_table(jobs: &[Found]) -> String {
    if jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let head = ["JOB", "MINOR", "COMMAND", "STATE", "AGE", "STEP"].map(str::to_owned);
    let lines = jobs.iter().map(|Found { pid, job }| {
        [
            format!("{pid}:{}", job.job),
            job.minor.to_string(),
            job.command.clone(),
            state(job).to_owned(),
            size::describe_microseconds(job.age_ms.saturating_mul(1000)),
            step(job),
        ]
    });
    text::columns(&std::iter::once(head).chain(lines).collect::<Vec<_>>())
}

fn state(job: &JobStatus) -> &'static str {
    match (job.state, &job.outcome) {
        (JobState::Waiting, _) => "waiting",
        (JobState::Running, _) => "running",
        (JobState::Ended, Some(OutcomeOfJob::Error(_))) => "failed",
        (JobState::Ended, _) => "done",
    }
}

fn step(job: &JobStatus) -> String {
    match &job.outcome {
        Some(OutcomeOfJob::Error(failure)) => text::failure(failure.errno, &failure.reason),
        Some(OutcomeOfJob::Result(_)) => String::new(),
        None => job.step.clone(),
    }
}

/// `oxtap watch`.
pub(super) fn watch(name: &JobName) -> Result<()> {
    let signals = take_interrupt()?;
    let run = RunDir::from_environment();
    let pid = find(&run, name)?;
    let result = follow(signals, &run, pid, Command::Watch { job: name.job })?;
    text::print(&super::control::summary(&result))
}

/// `oxtap cancel`.
pub(super) fn cancel(name: &JobName) -> Result<()> {
    let run = RunDir::from_environment();
    let pid = find(&run, name)?;
    match Client::connect(&run, pid, Some(ANSWER_MAX))?.ask(Command::Cancel { job: name.job })? {
        ResultOf::Cancel(answer) if answer.cancelled => text::print("turning back\n"),
        ResultOf::Cancel(_) => {
            let words = format!("job {pid}:{} cannot be turned back any more", name.job);
            Err(Error::new(ErrorKind::Busy, words))
        }
        _ => Err(unexpected("cancel")),
    }
}

/// Whose job it is.
fn find(run: &RunDir, name: &JobName) -> Result<u32> {
    match name.pid {
        Some(pid) => Ok(pid),
        None => choose(&all(run)?, name.job),
    }
}

fn choose(jobs: &[Found], number: u64) -> Result<u32> {
    let matching: Vec<u32> = jobs.iter().filter(|found| found.job.job == number).map(|found| found.pid).collect();
    match matching[..] {
        [pid] => Ok(pid),
        [] => Err(Error::new(ErrorKind::NotFound, format!("{number}: no such job (oxtap jobs shows all)"))),
        _ => {
            let names: Vec<String> = matching.iter().map(|pid| format!("{pid}:{number}")).collect();
            let words = format!("{number}: several tapdisks have this job: say which of {}", names.join(", "));
            Err(Error::new(ErrorKind::Invalid, words))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::native::{Failure, Quiet};

    fn job(pid: u32, number: u64, outcome: Option<OutcomeOfJob>) -> Found {
        let state = if outcome.is_some() { JobState::Ended } else { JobState::Running };
        let (command, step) = ("pause".to_owned(), "waiting for requests to end".to_owned());
        Found { pid, job: JobStatus { job: number, minor: 4, command, state, step, age_ms: 1870, outcome } }
    }

    #[test]
    fn jobs_are_shown_with_their_ends() {
        let done = OutcomeOfJob::Result(Box::new(ResultOf::Pause(Quiet::default())));
        let failed = OutcomeOfJob::Error(Failure { errno: 110, reason: "1 request in flight".to_owned() });
        let jobs = [job(70, 1, Some(done)), job(70, 2, Some(failed)), job(71, 1, None)];
        assert_eq!(
            to_table(&jobs),
            "JOB   MINOR  COMMAND  STATE    AGE     STEP\n\
             70:1  4      pause    done     1.87 s\n\
             70:2  4      pause    failed   1.87 s  1 request in flight: Connection timed out\n\
             71:1  4      pause    running  1.87 s  waiting for requests to end\n"
        );
        assert_eq!(to_table(&[]), "no jobs\n");
    }

    #[test]
    fn a_number_is_enough_if_only_one_has_it() {
        let jobs = [job(70, 1, None), job(70, 2, None), job(71, 1, None)];
        assert_eq!(choose(&jobs, 2).unwrap(), 70);
        assert_eq!(
            choose(&jobs, 1).unwrap_err().to_string(),
            "1: several tapdisks have this job: say which of 70:1, 71:1"
        );
        assert_eq!(choose(&jobs, 3).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn jobs_are_named_with_or_without_their_process() {
        assert_eq!("70:2".parse::<JobName>().unwrap(), JobName { pid: Some(70), job: 2 });
        assert_eq!("2".parse::<JobName>().unwrap(), JobName { pid: None, job: 2 });
        assert!("x".parse::<JobName>().is_err() && "70:".parse::<JobName>().is_err());
    }

    #[test]
    fn progress_is_told_in_words() {
        let mut progress = Progress {
            job: 9,
            minor: 4,
            command: "pause".to_owned(),
            state: JobState::Running,
            step: "waiting for requests to end".to_owned(),
            age_ms: 0,
            in_flight: 1,
            waiting: 2,
        };
        let expected = "pause of minor 4: waiting for requests to end, 1 request in flight, 2 to be tried again";
        assert_eq!(words(&progress), expected);
        progress = Progress { state: JobState::Waiting, in_flight: 0, waiting: 0, ..progress };
        assert_eq!(words(&progress), "pause of minor 4: waiting for its turn");
    }

    #[test]
    fn who_leaves_is_told_where_the_job_is() {
        assert!(farewell(70, 9).ends_with("oxtap watch 70:9 follows it, oxtap cancel 70:9 turns it back"));
    }
}
