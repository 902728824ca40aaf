use std::process::ExitCode;
pub fn inspect(_a: &super::PoolArguments) -> anyhow::Result<ExitCode> {
    todo!()
}
pub fn verify(_a: &super::PoolArguments) -> anyhow::Result<ExitCode> {
    todo!()
}
