#![forbid(unsafe_code)]
//! Owns `checkmap delete`: checkpoints go in one step, those that are named or all whose bitmaps cannot be trusted.

use crate::args::DeleteArgs;
use crate::change::{self, say_if_too_late, warn_all};
use crate::exit::{Failure, Outcome, Status};
use crate::output::print;
use crate::session::Session;
use crate::words::some_of;
use checkmap::Image;
use checkmap::chain::{Name, Plan};
use checkmap::image::{Access, Layers};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub(crate) fn run(args: &DeleteArgs, session: &Session) -> Outcome {
    let (target, words) = args.target.split(&args.checkpoints)?;
    if words.is_empty() && !args.all_inconsistent {
        return Err(Failure::Usage("CHECKPOINT is missing".into()));
    }
    if !words.is_empty() && args.all_inconsistent {
        return Err(Failure::Usage("--all-inconsistent takes no checkpoints".into()));
    }
    let names = || words.iter().map(|word| Name::new(word.as_bytes()).to_string());
    let done = match words.len() {
        0 => "deleted all inconsistent checkpoints".to_owned(),
        1 => format!("deleted checkpoint {}", some_of(names(), ", ")),
        _ => format!("deleted checkpoints {}", some_of(names(), ", ")),
    };
    if let (Some(path), true) = (target.image(), is_plain(args))
        && let Some(outcome) = in_layers(args, path, &words, session, &done)?
    {
        return Ok(outcome);
    }
    change::run(session, target, args.dry_run.dry_run, &done, |image| plan(args, &words, image))
}

/// Whether the layers below may have to change too.
fn is_plain(args: &DeleteArgs) -> bool {
    !args.all_inconsistent && !args.force_inconsistent && args.layers.wanted() == Layers::Check
}

/// Deletes checkpoints that layers below know too; `None` where the image alone has to change.
fn in_layers(
    args: &DeleteArgs,
    path: &Path,
    words: &[&OsString],
    session: &Session,
    done: &str,
) -> Result<Option<Status>, Failure> {
    let model = args.model.wanted();
    let access = if args.dry_run.dry_run { Access::Read } else { Access::Write };
    let mut image = match session.open(path, access) {
        Ok(image) if image.backing_file().is_some() => image,
        // The image alone, or its refusal, is for the deletion as ever.
        _ => return Ok(None),
    };
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let names = match image.chain(model).and_then(|chain| chain.select(&words)) {
        Ok(names) => names,
        // Some that only a layer below knows; a range is one of the top layer's chain.
        Err(_) => words.iter().map(|word| Name::new(*word)).collect(),
    };
    if !matches!(image.spans_layers(&names, model), Ok(true)) {
        return Ok(None);
    }
    if args.dry_run.dry_run {
        let change = image.rehearse_delete_in_layers(&names, model, &mut session.watch())?;
        print(session, |out| {
            for (path, actions) in &change.layers {
                for action in actions {
                    writeln!(out, "{}: {action}", path.display())?;
                }
            }
            Ok(())
        })?;
        return Ok(Some(Status::Done));
    }
    session.interrupt().hold();
    let change = image.delete_in_layers(&names, model, &mut session.watch())?;
    warn_all(session, &change.warnings);
    let steps = change.layers.iter().map(|(path, actions)| {
        format!("{}: {}", path.display(), some_of(actions.iter().map(ToString::to_string), "; "))
    });
    session.say(&format!("{done} ({})", some_of(steps, "; ")));
    say_if_too_late(session);
    Ok(Some(Status::Done))
}

fn plan(args: &DeleteArgs, words: &[&OsString], image: &Image) -> checkmap::Result<Plan> {
    let (layers, model) = (args.layers.wanted(), args.model.wanted());
    if args.all_inconsistent {
        return image.plan_delete_all_inconsistent(layers, model);
    }
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    if words.iter().any(|word| word.windows(2).any(|two| two == b"..")) {
        let chain = image.chain_for(model, &words)?;
        let picked = chain.select(&words).map_err(|error| error.in_file(image.path()))?;
        return image.plan_delete_many(&picked, args.force_inconsistent, layers, chain.model().known());
    }
    image.plan_delete_many(&words, args.force_inconsistent, layers, model)
}
