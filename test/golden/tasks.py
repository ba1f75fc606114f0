"""What OpenCV makes of pieces of scene.png: `/usr/bin/python3 tasks.py > tasks.jsonl`. CRC-32 of the pixels, or numbers."""
import json, random, zlib
import cv2, numpy


def median(piece, radius, times):
    """Repeated on a picture that is reflected far enough, so that the edges of OpenCV, which repeat the last pixel, are cut off."""
    edge = radius * times
    made = cv2.copyMakeBorder(piece, edge, edge, edge, edge, cv2.BORDER_REFLECT_101)
    for _ in range(times):
        made = cv2.medianBlur(made, 2 * radius + 1)
    height, width = piece.shape
    return made[edge : edge + height, edge : edge + width]


random.seed(1968)
medians = random.Random(1979)
colours = cv2.imread("scene.png")
scene = cv2.cvtColor(colours, cv2.COLOR_BGR2GRAY)
sepia = numpy.array([[134, 547, 279], [172, 702, 357], [194, 787, 402]], numpy.float32) / 1024  # blue first


def shrunk(piece, by):
    made = cv2.resize(piece, None, fx=1 / by, fy=1 / by, interpolation=cv2.INTER_AREA)
    # OpenCV rounds the size. Where it rounds down it leaves pixels out.
    return made if made.shape[:2] == tuple(-(-side // by) for side in piece.shape[:2]) else None


pieces = [(0, 0, 101, 75), (7, 9, 1, 1), (3, 4, 1, 50), (20, 70, 60, 1), (50, 30, 3, 4), (30, 12, 33, 31)]
for _ in range(40):
    x, y = random.randrange(100), random.randrange(74)
    pieces.append((x, y, random.randint(1, 101 - x), random.randint(1, 75 - y)))
cases = []
for i, (x, y, width, height) in enumerate(pieces):
    piece = scene[y : y + height, x : x + width].copy()

    def case(task, query, made):
        crc = zlib.crc32(made.tobytes())
        cases.append(dict(piece=[x, y, width, height], task=task, query=query, crc=crc))

    gx, gy = cv2.Scharr(piece, cv2.CV_64F, 1, 0), cv2.Scharr(piece, cv2.CV_64F, 0, 1)
    case("scharr", "", cv2.convertScaleAbs(cv2.magnitude(gx, gy)))
    case("equalize", "", cv2.equalizeHist(piece))
    if piece.min() < piece.max():  # a picture of one grey is white in OpenCV, and stays black here
        case("stretch", "", cv2.normalize(piece, None, 0, 255, cv2.NORM_MINMAX))
    level, made = cv2.threshold(piece, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    case("threshold", "", made)
    cases[-1]["level"] = int(level)
    case("threshold", "level=100", cv2.threshold(piece, 100, 255, cv2.THRESH_BINARY)[1])
    sigmas = [0.1, 0.3, 0.5, 0.75, 1, 1.25, 2, 2.5, 3.3, 4.75, 7.7, 12, 20, 50] if i < 6 else [random.randint(10, 2000) / 100]
    for sigma in sigmas:
        case("blur", f"sigma={sigma}", cv2.GaussianBlur(piece, (0, 0), sigma))
    for radius, times in [(1, 1), (2, 3), (12, 3), (32, 8)] if i < 6 else [(medians.randint(1, 20), medians.randint(1, 4))]:
        case("median", f"radius={radius}&times={times}", median(piece, radius, times))
    counts = cv2.calcHist([piece], [0], None, [256], [0, 256]).ravel()
    cases.append(dict(piece=[x, y, width, height], task="histogram", query="", counts={g: int(n) for g, n in enumerate(counts) if n}))

    def colour_case(task, query, made):
        case(task, query, cv2.cvtColor(made, cv2.COLOR_BGR2RGB))

    piece = colours[y : y + height, x : x + width].copy()
    colour_case("invert", "", cv2.bitwise_not(piece))
    colour_case("sepia", "", cv2.transform(piece, sepia))
    for by in [2, 3, 4, 5, 8, 64]:
        if min(width, height) * 2 > by and (made := shrunk(piece, by)) is not None:
            colour_case("half" if by == 2 else "thumbnail", "" if by == 2 else f"factor={by}", made)
print(*(json.dumps(case, separators=(",", ":")) for case in cases), sep="\n")
