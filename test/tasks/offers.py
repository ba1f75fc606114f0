"""A worker without TypeScript that offers a task of each kind: docs/wire.md, Offers."""
import base64, json, os, threading, time
import cv2, numpy as np, pika, redis

store = redis.Redis.from_url(os.environ["REDIS_URL"])
name = os.environ.get("WORKER_NAME", f"python-{os.getpid()}")
radius = {"type": "integer", "minimum": 0, "maximum": 9, "default": 1}
counts = {"type": "array", "items": {"type": "integer"}, "hidden": True}
offers = [
    {"name": "dilate", "halo": "radius", "params": {"radius": radius}},
    {"name": "greys", "halo": 0, "merge": "sum", "bandPixels": 1000},
    {"name": "squares", "merge": "concat", "pieces": {"to": "n", "step": 3}, "params": {"n": {"type": "integer"}}},
    {"name": "letters", "merge": "sum", "pieces": {"lines": 100}},
    {"name": "red", "halo": 0, "channels": 3, "resultChannels": 1},
    {"name": "wrong", "halo": "2*raduis", "params": {"radius": radius}},
    {"name": "share", "halo": 0, "params": {"counts": counts}, "first": {"param": "counts", "task": "histogram"}},
]


def dilate(grey, task):
    return cv2.dilate(grey, np.ones((2 * task["params"]["radius"] + 1,) * 2, np.uint8), borderType=cv2.BORDER_REFLECT_101)


def letters(texts):
    count = {}
    for text in texts:
        for letter in text:
            if letter.isalpha():
                count[letter] = count.get(letter, 0) + 1
    return count


def result(task):
    name = task["task"]
    if name == "squares":
        return json.dumps([n * n for a, b in task["datos"] for n in range(a, b)]).encode()
    if name == "letters":
        return json.dumps(letters(task["datos"])).encode()
    if name == "red":
        colour = cv2.imdecode(np.frombuffer(base64.b64decode(task["imagen"]), np.uint8), cv2.IMREAD_COLOR)
        return cv2.imencode(".png", colour[:, :, 2])[1].tobytes()
    grey = cv2.imdecode(np.frombuffer(base64.b64decode(task["imagen"]), np.uint8), cv2.IMREAD_GRAYSCALE)
    if name == "greys":
        return json.dumps(np.bincount(grey.ravel(), minlength=256).tolist()).encode()
    if name == "share":
        made = (np.array(task["params"]["counts"])[grey] % 256).astype(np.uint8)
    else:
        made = dilate(grey, task)
    return cv2.imencode(".png", made)[1].tobytes()


def on_task(ch, method, properties, body):
    task = json.loads(body)
    store.set(f"resultado:{task['chunk_id']}", base64.b64encode(result(task)), ex=3600)
    ch.basic_ack(method.delivery_tag)


def beat():
    own = redis.Redis.from_url(os.environ["REDIS_URL"])
    fields = {"name": name, "tasks": json.dumps([offer["name"] for offer in offers]), "busy": "", "offers": json.dumps(offers)}
    while True:
        seconds, micros = own.time()
        own.zadd("workers", {name: seconds * 1000 + micros // 1000})
        own.hset(f"worker:{name}", mapping=fields)
        own.pexpire(f"worker:{name}", 12000)
        time.sleep(4)


channel = pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"])).channel()
channel.basic_qos(prefetch_count=1)
arguments = {"x-queue-type": "quorum", "x-delivery-limit": 20, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "tareas.muertas", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
for offer in offers:
    channel.queue_declare(f"tareas.{offer['name']}", durable=True, arguments=arguments)
    channel.basic_consume(f"tareas.{offer['name']}", on_task)
threading.Thread(target=beat, daemon=True).start()
print("at work", flush=True)
channel.start_consuming()
