//! A client of PostgreSQL. `rows "host=... user=..." TIMES`

use std::error::Error;
use std::io;

use tokio_postgres::NoTls;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [server, times] = &arguments[..] else { return Err("usage: rows SERVER TIMES".into()) };
    let (client, connection) = tokio_postgres::connect(server, NoTls).await?;
    let connection = tokio::spawn(connection);
    client.batch_execute("CREATE TEMPORARY TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    let insert = client.prepare("INSERT INTO items VALUES ($1, $2)").await?;
    for id in 0..times.parse::<i32>()? {
        client.execute(&insert, &[&id, &format!("item {id}")]).await?;
    }
    let sum = client.query_one("SELECT count(*), sum(id), max(name) FROM items", &[]).await?;
    println!("{} rows, sum {}, the last name: {}", sum.get::<_, i64>(0), sum.get::<_, i64>(1), sum.get::<_, &str>(2));
    // More than a ring holds, at once.
    let big = client.query_one("SELECT repeat('0123456789', 1000000)", &[]).await?;
    println!("one value of {} bytes", big.get::<_, &str>(0).len());
    // Keeps its connection until somebody has looked at it.
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    drop(client);
    connection.await??;
    Ok(())
}
