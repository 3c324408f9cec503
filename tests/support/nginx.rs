//! nginx as an honest web server of a directory.

use std::{fs, net::SocketAddr, net::TcpStream, path::Path, process::Command};

use wtfs_testkit::{net, process::Process, wait};

use super::{
    need::find_program,
    stage::{PATIENCE, Stage},
};

/// A running nginx.
#[derive(Debug)]
pub(crate) struct Nginx {
    process: Process,
    addr: SocketAddr,
    access_log: std::path::PathBuf,
}

impl Nginx {
    /// Serves what lies below `root`, at an address of its own.
    #[track_caller]
    pub(crate) fn start(stage: &Stage, root: &Path) -> Self {
        let addr = net::fresh_addr();
        let dir = stage.subdir(format!("nginx-{}", addr.port()));
        let access_log = dir.join("access.log");
        // Started by root its workers would be a user who may not enter our temporary directories.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let (place, root) = (dir.display(), root.display());
        let config = format!(
            "{user} daemon off; worker_processes 1; pid {place}/pid; error_log {place}/error.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{\n\
               client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fastcgi;\n\
               uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;\n\
               log_format ranges '$status $request_uri $http_range'; access_log {place}/access.log ranges;\n\
               sendfile on; tcp_nopush on; keepalive_requests 1000000; default_type application/octet-stream;\n\
               server {{ listen {addr}; root {root}; }}\n\
             }}\n"
        );
        fs::write(dir.join("nginx.conf"), config).expect("the scratch directory can be written");
        let mut command = Command::new(find_program("nginx").unwrap_or_else(|| "nginx".into()));
        stage.isolate(&mut command);
        command
            .arg("-p")
            .arg(&dir)
            .arg("-c")
            .arg(dir.join("nginx.conf"))
            .arg("-e")
            .arg(dir.join("error.log"));
        let mut process = Process::spawn("nginx", command, &stage.log("nginx"));
        wait::eventually("nginx listens", PATIENCE, || {
            if let Some(status) = process.try_status() {
                panic!("nginx ended: {status}");
            }
            TcpStream::connect(addr).ok()
        });
        Self { process, addr, access_log }
    }

    /// A URL of it with this path (which begins with a slash).
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// What it was asked, a line each: status, path, range.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.access_log).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

impl Drop for Nginx {
    /// The workers end with their master only if it is told so.
    fn drop(&mut self) {
        self.process.signal(rustix::process::Signal::TERM);
        let _ended = wait::within(std::time::Duration::from_secs(10), || self.process.try_status());
    }
}
