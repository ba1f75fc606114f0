"""A worker in Python, with OpenCV: the Sobel edges of one band after another.

    apt-get install python3-pika python3-redis python3-opencv
    RABBITMQ_URL=amqp://guest:guest@127.0.0.1 REDIS_URL=redis://127.0.0.1 /usr/bin/python3 examples/worker.py

It takes a band off the queue, sets a key, and acknowledges. The halo may stay on. docs/wire.md describes the messages.

Left out: it does not reconnect. When RabbitMQ or Redis goes away it exits, and its band goes to another worker; let a
supervisor restart it (systemd: Restart=always). It sends no heartbeat, so the page does not show it.
"""
import base64, json, os
import cv2, numpy as np, pika, redis

store = redis.Redis.from_url(os.environ["REDIS_URL"])
channel = pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"])).channel()
# Declared passively: the coordinator sets its arguments, and other arguments are an error.
channel.queue_declare("tareas", passive=True)
# One band at a time: the others go to idle workers.
channel.basic_qos(prefetch_count=1)


def on_task(ch, method, properties, body):
    task = json.loads(body)
    grey = cv2.imdecode(np.frombuffer(base64.b64decode(task["imagen"]), np.uint8), cv2.IMREAD_GRAYSCALE)
    gx, gy = cv2.Sobel(grey, cv2.CV_64F, 1, 0, ksize=3), cv2.Sobel(grey, cv2.CV_64F, 0, 1, ksize=3)
    edges = cv2.convertScaleAbs(cv2.magnitude(gx, gy))
    store.set(f"resultado:{task['chunk_id']}", base64.b64encode(cv2.imencode(".png", edges)[1]), ex=3600)
    # After the result is stored: a band without an acknowledgement goes to another worker when this one dies.
    ch.basic_ack(method.delivery_tag)


channel.basic_consume("tareas", on_task)
print("at work", flush=True)
channel.start_consuming()
