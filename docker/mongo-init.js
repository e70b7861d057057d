// Runs once, on an empty volume: the user of the sink, the web app and Airflow, who may do nothing outside this database.
const pwd = require("fs").readFileSync("/run/secrets/mongo_password", "utf8");
db.createUser({ user: "flights", pwd, roles: ["readWrite"] });
