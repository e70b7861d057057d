"""The web app's addresses and the original's example, as a client knows them."""

FORM = "/flights/delays/predict_kafka"
SUBMIT = "/flights/delays/predict/classify_realtime"
RESPONSE = f"{SUBMIT}/response/"
FLIGHT = {
    "DepDelay": "5",
    "Carrier": "AA",
    "FlightDate": "2016-12-25",
    "Origin": "ATL",
    "Dest": "SFO",
    "FlightNum": "1519",
}
