//! A guest that means harm: whatever it does, the backend must live, and answer each request once or none at all.

use block_core::Result;
use guest::{
    ByHand,
    hostile::{HostileFront, HostileOptions},
};
use serde_json::json;

use super::{GuestHost, failed};
use crate::oxtap::{
    arguments::{GuestRun, Harm},
    text,
};

/// Sectors that it takes the disk to have before it is told.
const SECTORS: u64 = 1 << 20;

pub(super) fn run(host: &GuestHost, arguments: &GuestRun, harm: Harm) -> Result<()> {
    let done = host.executor.block_on(act(host, arguments, harm));
    host.executor.end_tasks();
    done
}

async fn act(host: &GuestHost, arguments: &GuestRun, harm: Harm) -> Result<()> {
    let (guest, store) = host.boot_hosted()?;
    let by_hand = ByHand::new(&store, host.disk.clone(), arguments.patience);
    let mode = match harm {
        Harm::Ring(mode) => mode,
        Harm::Nodes(nodes) => {
            let refused = nodes.write(&store, &host.disk, arguments.requests, arguments.seed).await?;
            let words = format!("{} rounds, {refused} nodes refused\n", arguments.requests);
            return if arguments.json { text::print_json(&json!({ "refused": refused })) } else { text::print(&words) };
        }
    };
    let options = HostileOptions {
        backend: by_hand.backend().await?,
        abi: arguments.abi,
        order: arguments.ring_order,
        sectors: SECTORS,
        seed: arguments.seed,
    };
    let mut front = HostileFront::new(&host.executor, &guest, options)?;
    by_hand.connect(arguments.abi, &front.ring_grants(), front.port()).await?;
    front.act(mode, arguments.requests).await?;
    by_hand.leave().await?;
    let report = front.report().clone();
    let kept = front.release()? as u64;
    if arguments.json {
        text::print_json(&json!({
            "sent": report.sent, "okay": report.okay, "failed": report.failed, "unsupported": report.unsupported,
            "stray_pages": report.stray_pages, "kept_ring_pages": kept, "complaints": report.complaints,
        }))?;
    } else {
        let answers = format!("{} done, {} failed, {} not offered", report.okay, report.failed, report.unsupported);
        text::print(&format!(
            "requests   {}: {answers}\npages      {} lost\n",
            report.sent,
            report.stray_pages + kept
        ))?;
    }
    match report.complaints.first() {
        Some(complaint) => Err(failed(complaint.clone())),
        None if report.stray_pages + kept > 0 => Err(failed("pages were lost")),
        None => Ok(()),
    }
}
