#![forbid(unsafe_code)]
//! Owns `checkmap delete`: checkpoints go in one step, those that are named or all whose bitmaps cannot be trusted.

use crate::args::DeleteArgs;
use crate::change;
use crate::exit::{Failure, Outcome, Status};
use crate::in_layers;
use crate::session::Session;
use crate::words::some_of;
use checkmap::Image;
use checkmap::chain::{Name, Plan};
use checkmap::image::{Edit, Layers, Purpose};
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
    if let (Some(path), Layers::Check, true) = (target.image(), args.layers.wanted(), args.also.is_empty())
        && let Some(outcome) = delete_in_layers(args, path, &words, session, &done)?
    {
        return Ok(outcome);
    }
    let step = args.also.step(Purpose::Delete);
    change::run_step(session, target, step, args.dry_run.dry_run, &done, |image| plan(args, &words, image))
}

/// Deletes checkpoints that layers below know too; `None` where the image alone has to change.
fn delete_in_layers(
    args: &DeleteArgs,
    path: &Path,
    words: &[&OsString],
    session: &Session,
    done: &str,
) -> Result<Option<Status>, Failure> {
    let (model, dry_run) = (args.model.wanted(), args.dry_run.dry_run);
    let Some(image) = in_layers::open(session, path, dry_run) else { return Ok(None) };
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let names = match image.chain(model).and_then(|chain| chain.select(&words)) {
        Ok(names) => names,
        // Some that only a layer below knows; a range is one of the top layer's chain.
        Err(_) => words.iter().map(|word| Name::new(*word)).collect(),
    };
    let edit = match (args.all_inconsistent, args.force_inconsistent) {
        (true, _) => Edit::DeleteAllInconsistent,
        (false, true) => Edit::ForceDelete(&names),
        (false, false) => Edit::Delete(&names),
    };
    in_layers::run(session, image, &edit, model, dry_run, done)
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
