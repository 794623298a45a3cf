//! The tools for images that nobody serves: `coalesce` beside `cp` of the same bytes, `check` and `scan` of a large tree, and
//! how long `query` takes from start to exit.
//!
//! Both ways of moving bytes end when these are durable. The tree is one of small images, so that what is measured is what a
//! storage manager waits for: processes, opened files, headers.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufWriter, Write},
    iter,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use block_core::{Error, ErrorKind, Result, ResultExt};

use crate::{Effort, callgrind, figures::Report, processes::program};

const BLOCK: usize = 2 << 20;
const SECTOR: usize = 512;

/// How much is moved, and how many images there are.
struct Size {
    /// Blocks of the delta.
    blocks: usize,
    images: usize,
    /// Times that a short program is run for one sample.
    runs: u32,
    rounds: usize,
}

impl Size {
    fn of(effort: &Effort) -> Size {
        match (effort.is_smoke, effort.duration.as_millis()) {
            (true, _) => Size { blocks: 4, images: 12, runs: 3, rounds: 1 },
            (false, 0..1000) => Size { blocks: 256, images: 2000, runs: 50, rounds: effort.rounds },
            _ => Size { blocks: 2048, images: 2000, runs: 200, rounds: effort.rounds },
        }
    }
}

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let (size, mut report) = (Size::of(effort), Report::default());
    coalesce(effort, &size, &mut report)?;
    tree(effort, &size, &mut report)?;
    let delta = (size.blocks * BLOCK) >> 20;
    report.note(format!("delta of {delta} MiB in whole blocks; bytes are durable when a time ends"));
    report.note(format!("tree of {} images, each continuing one of a third of its number", size.images));
    Ok(report)
}

fn coalesce(effort: &Effort, size: &Size, report: &mut Report) -> Result<()> {
    let at = |name: &str| effort.directory.join(name);
    let (base, delta, copy) = (at("base.vhd"), at("delta.vhd"), at("copy.vhd"));
    let mib = ((size.blocks * BLOCK) >> 20).to_string();
    vhd_util(&effort.directory, &["create", "-n", "base.vhd", "-s", &mib])?;
    fs::copy(&base, at("empty.vhd")).context("the empty parent")?;
    vhd_util(&effort.directory, &["snapshot", "-e", "-n", "delta.vhd", "-p", "base.vhd"])?;
    give_blocks(&delta, size.blocks)?;
    let bytes = fs::metadata(&delta).context(delta.display())?.len();
    let command = |words: &[&str]| vhd_util(&effort.directory, words);
    for _ in 0..size.rounds {
        fs::copy(at("empty.vhd"), &base).context("the empty parent")?;
        let mut sample = |what: &str, work: &dyn Fn() -> Result<()>| -> Result<f64> {
            let start = Instant::now();
            work()?;
            let speed = bytes_per_nanosecond(bytes, start);
            report.add(what, "GB/s", speed);
            Ok(speed)
        };
        let first =
            sample("coalesce into a parent without these blocks", &|| command(&["coalesce", "-n", "delta.vhd"]))?;
        let again = sample("coalesce into a parent that has them", &|| command(&["coalesce", "-n", "delta.vhd"]))?;
        let copied = sample("cp of the delta, and sync", &|| cp(&delta, &copy))?;
        fs::remove_file(&copy).context(copy.display())?;
        report.add("coalesce : cp, without these blocks", "x", first / copied);
        report.add("coalesce : cp, with them", "x", again / copied);
    }
    [base, delta].iter().try_for_each(|path| fs::remove_file(path).context(path.display()))
}

#[allow(clippy::cast_precision_loss, reason = "a figure")]
fn bytes_per_nanosecond(bytes: u64, start: Instant) -> f64 {
    bytes as f64 / start.elapsed().as_nanos() as f64
}

fn cp(from: &Path, to: &Path) -> Result<()> {
    run_quietly(Command::new("cp").args(["--sparse=never", "--reflink=never"]).arg(from).arg(to))?;
    File::open(to).and_then(|file| file.sync_all()).context(to.display())
}

/// Gives a differencing image that holds nothing its first blocks, whole.
fn give_blocks(path: &Path, blocks: usize) -> Result<()> {
    let mut head = fs::read(path).context(path.display())?;
    let footer = head.split_off(head.len() - SECTOR);
    let first = (head.len() + SECTOR).next_multiple_of(4096) - SECTOR;
    // So that all data begins with a page.
    let step = BLOCK + 4096;
    for block in 0..blocks {
        let entry = u32::try_from((first + block * step) / SECTOR).expect("an image of less than 2 TiB");
        head[1536 + block * 4..][..4].copy_from_slice(&entry.to_be_bytes());
    }
    let mut file = BufWriter::with_capacity(BLOCK, File::create(path).context(path.display())?);
    let mut write = |bytes: &[u8]| file.write_all(bytes).context(path.display());
    head.resize(first, 0);
    write(&head)?;
    let mut data = vec![0; step];
    data[..SECTOR].fill(0xff);
    for block in 0..blocks {
        // Bytes that no storage makes less of.
        let mut word = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(block as u64 + 1);
        for bytes in data[SECTOR..SECTOR + BLOCK].as_chunks_mut::<8>().0 {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            *bytes = word.to_be_bytes();
        }
        let end = if block + 1 == blocks { SECTOR + BLOCK } else { step };
        write(&data[..end])?;
    }
    write(&footer)?;
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error).context(path.display())?;
    file.sync_all().context(path.display())
}

fn tree(effort: &Effort, size: &Size, report: &mut Report) -> Result<()> {
    let directory = effort.directory.join("tree");
    fs::create_dir(&directory).context(directory.display())?;
    let name = |number: usize| format!("image{number:04}.vhd");
    vhd_util(&directory, &["create", "-n", &name(0), "-s", "64"])?;
    for number in 1..size.images {
        vhd_util(&directory, &["snapshot", "-e", "-n", &name(number), "-p", &name((number - 1) / 3)])?;
    }
    let leaf = name(size.images - 1);
    let scan = ["scan", "-f", "-m", "*.vhd"];
    let query = ["query", "-vsaf", "-p", "-n", &leaf];
    for _ in 0..size.rounds {
        let start = Instant::now();
        vhd_util(&directory, &scan)?;
        report.add("scan -f of the tree", "ms", start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        for number in 0..size.images {
            vhd_util(&directory, &["check", "-n", &name(number)])?;
        }
        report.add("check of each image of the tree, one after the other", "ms", start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        for _ in 0..size.runs {
            vhd_util(&directory, &query)?;
        }
        report.add("query, from start to exit", "ms", start.elapsed().as_secs_f64() * 1e3 / f64::from(size.runs));
        let start = Instant::now();
        for _ in 0..size.runs {
            run_quietly(&mut Command::new("true"))?;
        }
        report.add("a program that does nothing", "ms", start.elapsed().as_secs_f64() * 1e3 / f64::from(size.runs));
    }
    if !effort.is_smoke {
        let check = ["check", "-n", &leaf];
        for (what, words) in [("query", &query[..]), ("check of one image", &check), ("scan -f of the tree", &scan)] {
            let program = program("vhd-util")?;
            let words: Vec<&OsStr> = iter::once(program.as_os_str()).chain(words.iter().map(OsStr::new)).collect();
            match callgrind::count(Path::new("valgrind"), &directory, &words) {
                #[allow(clippy::cast_precision_loss, reason = "millions, to two digits")]
                Ok(count) => report.add(format!("{what}: instructions"), "million", count as f64 / 1e6),
                Err(words) => report.note(format!("{what}: instructions: {words}")),
            }
        }
    }
    Ok(())
}

fn vhd_util(directory: &Path, words: &[&str]) -> Result<()> {
    run_quietly(Command::new(program("vhd-util")?).args(words).current_dir(directory))
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let name = format!("{command:?}");
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().context(&name)?;
    if status.success() { Ok(()) } else { Err(Error::new(ErrorKind::Io, format!("{name}: {status}"))) }
}
