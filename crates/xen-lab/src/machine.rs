//! A machine: QEMU, Xen, dom0, a script.

use std::{
    fs,
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{images::Images, packages::run, root::Root};

/// What is left of a machine that was told to end.
const END_GRACE: Duration = Duration::from_secs(5);
/// Room for what comes back.
const RESULT_BYTES: u64 = 256 << 20;
/// What makes Linux start faster, and is of no use here.
const KERNEL_ARGUMENTS: &str = "loglevel=4 panic=1 random.trust_cpu=on mitigations=off cryptomgr.notests rodata=off audit=0 \
                                apparmor=0 nokaslr";

/// What the machine's processors can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Processor {
    /// PV guests only; the fastest. (A model without SMAP, which dom0 does not survive under emulation.)
    #[default]
    Plain,
    /// PVH guests too, which alone can be migrated live here: emulated SVM.
    Svm,
}

/// What is run, and in what.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The script that dom0 runs.
    pub script: String,
    /// What is laid over dom0's root: where it goes, what it is. `lab/bin` comes first in the search path.
    pub files: Vec<(String, PathBuf)>,
    /// The processors.
    pub processor: Processor,
    /// Memory of dom0, in MiB.
    pub dom0_mebibytes: u32,
    /// Of the whole machine.
    pub mebibytes: u32,
    /// Raw disks, found in dom0 by their serial numbers.
    pub disks: Vec<(String, PathBuf)>,
    /// When it is given up.
    pub patience: Duration,
    /// Show its console while it runs.
    pub is_shown: bool,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine {
            script: String::new(),
            files: Vec::new(),
            processor: Processor::Plain,
            dom0_mebibytes: 1024,
            mebibytes: 3072,
            disks: Vec::new(),
            patience: Duration::from_secs(600),
            is_shown: false,
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The script has ended with this status.
    Ended(i32),
    /// It was given up.
    TimedOut,
    /// Hypervisor or kernel have ended first.
    Died,
}

/// What came of it. The directory goes when this does.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// All that the machine said.
    pub console: String,
    directory: TempDir,
}

impl Outcome {
    /// What the script has left in `/out`: its own output is `script.log`.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A file that the script has left, if it is text.
    pub fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.directory().join(name)).ok()
    }

    /// Keeps what was left.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn keep(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        fs::write(directory.join("console.log"), &self.console)?;
        run(Command::new("cp").arg("-a").arg(format!("{}/.", self.directory().display())).arg(directory))
    }
}

impl Machine {
    /// Boots it and waits for its end.
    ///
    /// # Errors
    /// When it could not be started. What happens in it is no error: see the verdict.
    pub fn run(&self, images: &Images) -> Result<Outcome> {
        let work =
            tempfile::Builder::new().prefix("oxtap-xen-lab-").tempdir().context("a directory for the machine")?;
        self.write_root(images, &work.path().join("initrd"))?;
        let result = work.path().join("result");
        fs::File::create(&result).and_then(|file| file.set_len(RESULT_BYTES)).context("result")?;
        let mut command = self.command(images, work.path())?;
        let mut qemu = Qemu::start(&mut command)?;
        let (console, is_late) = qemu.follow(self.patience, self.is_shown)?;
        drop(qemu);
        let directory = tempfile::Builder::new().prefix("oxtap-xen-lab-out-").tempdir()?;
        // There is none if the machine has died.
        let mut unpack = Command::new("tar");
        unpack.arg("-C").arg(directory.path()).arg("-xf").arg(&result).stdin(Stdio::null()).stderr(Stdio::null());
        let _ = unpack.status();
        let status = fs::read_to_string(directory.path().join("exit")).ok().and_then(|text| text.trim().parse().ok());
        let verdict = match (status, is_late) {
            (Some(status), _) => Verdict::Ended(status),
            (None, true) => Verdict::TimedOut,
            (None, false) => Verdict::Died,
        };
        Ok(Outcome { verdict, console, directory })
    }

    /// dom0's root, and behind it what is laid over.
    fn write_root(&self, images: &Images, path: &Path) -> Result<()> {
        let mut over = Root::default();
        for (name, from) in &self.files {
            match from.is_dir() {
                true => over.copy_all(name, from)?,
                false => over.copy(name, from)?,
            }
        }
        over.file("lab/script", 0o755, self.script.clone());
        fs::copy(images.file("dom0.cpio"), path).context("dom0.cpio")?;
        let out = fs::OpenOptions::new().append(true).open(path).context("initrd")?;
        over.write(BufWriter::new(out))
    }

    fn command(&self, images: &Images, work: &Path) -> Result<Command> {
        let packages = images.packages();
        let mut command = packages.command("usr/bin/qemu-system-x86_64")?;
        let root = packages.root();
        for place in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(root.join(place));
        }
        let model = match self.processor {
            Processor::Plain => "Westmere",
            Processor::Svm => "Opteron_G3,+svm,+npt,-rdtscp",
        };
        // A /dev/kvm that opens need not run Xen: always emulated.
        command.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", model, "-smp", "2"]);
        command.args(["-m", &self.mebibytes.to_string(), "-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-no-reboot", "-serial", "stdio", "-device", "isa-debug-exit,iobase=0x501,iosize=1"]);
        drive(&mut command, "lab-result", &work.join("result"), "unsafe");
        self.disks.iter().for_each(|(serial, path)| drive(&mut command, serial, path, "writeback"));
        let memory = self.dom0_mebibytes;
        command.arg("-kernel").arg(images.file("xen")).arg("-append").arg(format!(
            "dom0_mem={memory}M,max:{memory}M dom0_max_vcpus=1 dom0_vcpus_pin com1=115200,8n1 console=com1 loglvl=warning \
             guest_loglvl=warning spec-ctrl=no xpti=no"
        ));
        // Modules of a multiboot kernel, each with its command line behind it.
        let kernel = images.file("vmlinux");
        command.arg("-initrd").arg(format!(
            "{} console=hvc0 oxtap.role=dom0 {KERNEL_ARGUMENTS},{}",
            plain(&kernel)?,
            plain(&work.join("initrd"))?
        ));
        Ok(command)
    }
}

fn drive(command: &mut Command, serial: &str, path: &Path, cache: &str) {
    let file = path.display().to_string().replace(',', ",,");
    command.arg("-drive").arg(format!("if=none,id={serial},format=raw,file={file},cache={cache}"));
    command.arg("-device").arg(format!("virtio-blk-pci,drive={serial},serial={serial}"));
}

/// A path in a list that commas and blanks divide.
fn plain(path: &Path) -> Result<&str> {
    let text = path.to_str().with_context(|| format!("{} is not text", path.display()))?;
    ensure!(!text.contains([',', ' ']), "{text}: QEMU takes no path with a comma or a blank here");
    Ok(text)
}

/// A running QEMU, which ends with this.
struct Qemu {
    child: Child,
}

impl Qemu {
    fn start(command: &mut Command) -> Result<Qemu> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Qemu { child: command.spawn().context("cannot start QEMU")? })
    }

    /// What it says, to its end or until `patience` is over; the latter is told.
    fn follow(&mut self, patience: Duration, is_shown: bool) -> Result<(String, bool)> {
        let end = Instant::now() + patience;
        let output = self.child.stdout.take().expect("it has a pipe");
        let (to, lines) = mpsc::channel();
        let reader = thread::spawn(move || read_lines(output, &to));
        let mut console = String::new();
        let is_late = loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if is_shown {
                        let mut out = std::io::stdout().lock();
                        // Whoever looks may have gone.
                        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
                    }
                    console += &line;
                    console.push('\n');
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break false,
                Err(mpsc::RecvTimeoutError::Timeout) => break true,
            }
        };
        if is_late {
            self.child.kill().context("QEMU")?;
        }
        reader.join().expect("a reader does not panic");
        let is_over = self.wait_for_end();
        let mut complaint = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut errors, &mut complaint);
        }
        if !is_over {
            bail!("QEMU has not ended");
        }
        if console.is_empty() && !complaint.is_empty() {
            bail!("QEMU: {}", complaint.trim());
        }
        Ok((console, is_late))
    }

    fn wait_for_end(&mut self) -> bool {
        let end = Instant::now() + END_GRACE;
        while Instant::now() < end {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        self.child.wait().is_ok()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(output: ChildStdout, to: &mpsc::Sender<String>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while let Ok(count @ 1..) = output.read_until(b'\n', &mut line) {
        let _ = count;
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        line.clear();
        if to.send(text).is_err() {
            return;
        }
    }
}
