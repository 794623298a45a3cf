//! One kernel after the other.

use std::{pin::pin, time::Duration};

use block_core::{Error, Result, ResultExt};
use futures_util::future::{Either, select};
use guest::{
    Device, DeviceOptions,
    workload::{Pace, Workload},
};
use indicatif::{ProgressBar, ProgressStyle};
use xen::Kernel;
use xenbus::Outcome;

use super::{GuestHost, failed, report::Report};
use crate::oxtap::arguments::{GuestRun, Handover};

/// Steps between a kernel's start and its disk, each of which may take as long as the backend may.
const STEPS: u32 = 6;

pub(super) fn run(host: &GuestHost, arguments: &GuestRun) -> Result<()> {
    let mut run = Run {
        host,
        arguments,
        workload: None,
        report: Report::default(),
        bar: ProgressBar::new(arguments.cycles).with_style(style()),
    };
    let start = host.executor.now();
    let result = host.executor.block_on(run.all());
    run.bar.finish_and_clear();
    host.executor.end_tasks();
    result?;
    if let Some(workload) = &run.workload {
        run.report.take(workload.done(), host.executor.now() - start);
    }
    run.report.print(arguments.json)?;
    match run.report.lost() {
        0 => Ok(()),
        lost => Err(failed(format!("{lost} pages were lost"))),
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("kernel {pos} of {len} [{bar:30}] {msg}").expect("a template that is known to be good")
}

struct Run<'a> {
    host: &'a GuestHost,
    arguments: &'a GuestRun,
    /// What is known of the blocks outlives every kernel.
    workload: Option<Workload>,
    report: Report,
    bar: ProgressBar,
}

impl Run<'_> {
    async fn all(&mut self) -> Result<()> {
        for index in 0..self.arguments.cycles {
            self.kernel(index).await.context(format!("kernel {}", index + 1))?;
            self.bar.inc(1);
        }
        Ok(())
    }

    /// A kernel from its start to its end.
    async fn kernel(&mut self, index: u64) -> Result<()> {
        let (kernel, store) = self.host.boot()?;
        let device = Device::open(&self.host.executor, &kernel, &store, self.host.disk.clone(), self.options()).await?;
        let disk = self.within(self.arguments.patience * STEPS, "the backend does not connect", device.connected());
        let disk = disk.await??;
        // Whoever works with a disk has it open: it is not to be taken away.
        let _hold = device.hold();
        let workload = self.workload.get_or_insert_with(|| Workload::new(self.arguments.seed, &disk)).clone();
        (self.report.sectors, (self.report.queues, self.report.ring_order)) = (disk.sectors, device.rings());
        self.report.persistent = self.arguments.persistent && disk.persistent;
        self.report.kernels += 1;
        self.report.descriptors_at_the_end = descriptors();
        if index == 0 {
            self.report.descriptors_of_the_first = self.report.descriptors_at_the_end;
        }
        if index > 0 || self.arguments.read_only {
            self.report.blocks_checked += workload.verify(&device, self.pace()).await?;
        }
        let is_last = index + 1 == self.arguments.cycles;
        if is_last {
            workload.run(&device, self.arguments.requests, self.pace()).await?;
            self.report.blocks_checked += workload.verify(&device, self.pace()).await?;
            self.shut_down(&device).await?;
            return self.take_account(&kernel);
        }
        let working = {
            let (device, workload, pace) = (device.clone(), workload.clone(), self.pace());
            self.host.executor.spawn(async move { workload.run(&device, u64::MAX, pace).await })
        };
        let enough = workload.done().requests() + self.arguments.requests;
        match select(working, pin!(workload.until(enough))).await {
            Either::Left((ended, _)) => return ended.and(Err(failed("the disk has gone"))),
            Either::Right(((), working)) if self.falls_over(index) => {
                // In the middle of all that it has asked.
                self.report.crashes += 1;
                self.count(&device);
                drop(working);
            }
            Either::Right(((), working)) => {
                self.shut_down(&device).await?;
                working.await?;
                self.take_account(&kernel)?;
            }
        }
        let done = workload.done();
        self.bar.set_message(format!("{} requests, {} unanswered", done.requests(), done.unanswered));
        Ok(())
    }

    fn falls_over(&self, index: u64) -> bool {
        match self.arguments.handover {
            Handover::Shutdown => false,
            Handover::Crash => true,
            Handover::Mixed => index % 2 == 1,
        }
    }

    async fn shut_down(&mut self, device: &Device) -> Result<()> {
        let outcome = device.shutdown(self.arguments.patience * 2).await;
        self.count(device);
        if outcome != Outcome::AtItsStart {
            return Err(failed(format!("the disk could not be left at its start: {outcome:?}")));
        }
        Ok(())
    }

    /// A kernel that has left its disk has nothing granted any more.
    fn take_account(&mut self, kernel: &dyn Kernel) -> Result<()> {
        let account = kernel.account()?;
        self.report.pages_granted_at_the_end += account.granted;
        self.report.pages_used_at_the_end += account.used;
        Ok(())
    }

    fn count(&mut self, device: &Device) {
        let account = device.account();
        self.report.stray_pages += account.stray_pages;
        self.report.kept_ring_pages += account.kept_ring_pages;
        self.report.resizes += account.resizes;
    }

    async fn within<T>(&self, limit: Duration, words: &'static str, wait: impl Future<Output = T>) -> Result<T> {
        match select(pin!(wait), pin!(self.host.executor.sleep(limit))).await {
            Either::Left((value, _)) => Ok(value),
            Either::Right(_) => Err(Error::from_os(words, rustix::io::Errno::TIMEDOUT.into())),
        }
    }

    fn options(&self) -> DeviceOptions {
        let GuestRun { abi, ring_order, queues, persistent, jump, patience, .. } = *self.arguments;
        DeviceOptions { abi, order: ring_order, queues, persistent, jumps: jump, patience, ..DeviceOptions::default() }
    }

    fn pace(&self) -> Pace {
        let GuestRun { depth, blocks, read_only, .. } = *self.arguments;
        Pace { depth: depth.into(), blocks_max: blocks.into(), read_only }
    }
}

/// Open descriptors of this process; 0 if the system does not tell.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
