#![forbid(unsafe_code)]
//! Owns `checkmap plan`: how much of each disk a backup has to read, for people, for programs and for libvirt.

use crate::args::PlanArgs;
use crate::exit::{Failure, Outcome, Status};
use crate::output::print;
use crate::session::Session;
use crate::table::{Column, Rows};
use crate::target::Target;
use crate::words::{amount, one_line};
use checkmap::backup::{Planned, Tier, plan};
use checkmap::image::Access;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const COLUMNS: [Column; 5] = [
    Column::Names("DISK"),
    Column::Words("READ"),
    Column::Numbers("CHANGED"),
    Column::Numbers("ALLOCATED"),
    Column::Numbers("SIZE"),
];

pub(crate) fn run(args: &PlanArgs, session: &Session) -> Outcome {
    let (target, others) = args.target.split(&args.others)?;
    let Target::Image(first) = target else {
        return Err(Failure::Usage("plan takes images: disks of running hypervisors are not planned yet".into()));
    };
    // Helpers that read a disk end with this program.
    session.interrupt().hold();
    let mut all = Vec::new();
    for path in std::iter::once(first).chain(others.into_iter().map(Path::new)) {
        let image = session.open(path, Access::Read)?;
        let secret_file = args.secret_file.as_deref();
        all.push((path, plan(&image, args.since.as_bytes(), secret_file, &mut session.watch())?));
    }
    print(session, |out| {
        match (args.json, args.libvirt_xml) {
            (true, _) => writeln!(out, "{:#}", json!({ "disks": all.iter().map(value).collect::<Vec<_>>() }))?,
            (_, true) => write_xml(&all, &args.since.to_string_lossy(), out)?,
            _ => write_table(&all, out)?,
        }
        Ok(())
    })?;
    if !args.json {
        for (path, planned) in &all {
            if let Some(reason) = &planned.reason {
                session.say(&format!("{}: {} has to be read: {reason}", path.display(), planned.tier.name()));
            }
        }
    }
    Ok(Status::Done)
}

fn value((path, planned): &(&Path, Planned)) -> Value {
    json!({
        "disk": path.to_string_lossy(),
        "tier": planned.tier.name(),
        "reason": planned.reason,
        "changed_bytes": planned.changed_bytes,
        "allocated_bytes": planned.allocated_bytes,
        "size_bytes": planned.size_bytes,
    })
}

fn write_table(all: &[(&Path, Planned)], out: &mut dyn Write) -> io::Result<()> {
    let shown = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), amount);
    let mut table = Rows::new(&COLUMNS);
    for (path, planned) in all {
        table.add([
            one_line(&path.to_string_lossy()),
            planned.tier.name().to_owned(),
            shown(planned.changed_bytes),
            shown(planned.allocated_bytes),
            amount(planned.size_bytes),
        ]);
    }
    table.write(false, out)
}

fn write_xml(all: &[(&Path, Planned)], since: &str, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "<domainbackup mode='pull'>\n  <disks>")?;
    for (path, planned) in all {
        let mode = match planned.tier {
            Tier::Changed => format!("backupmode='incremental' incremental='{}'", escaped(since)),
            _ => "backupmode='full'".to_owned(),
        };
        writeln!(out, "    <disk name='{}' backup='yes' {mode}/>", escaped(&path.to_string_lossy()))?;
    }
    writeln!(out, "  </disks>\n</domainbackup>")
}

/// Text as it stands between the quotes of an attribute.
fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, char| {
        match char {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            char if char.is_control() => escaped.push_str(&format!("&#{};", u32::from(char))),
            char => escaped.push(char),
        }
        escaped
    })
}
