// Runs once, on an empty volume: the user of the sink, the web app and Airflow, who may do nothing outside this database.
db.createUser({ user: "flights", pwd: process.env.MONGO_PASSWORD, roles: ["readWrite"] });
