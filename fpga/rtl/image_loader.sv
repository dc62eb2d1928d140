// LOAD: brings the image from memory into the activation memory, four pixels at a time, one in
// each bank.
//
// Three beats of 16 bytes hold a whole number of what leaves: twice 24 bytes (fold: half of four
// pixels of 2 x 2) or four times 12. So each leaves from a place of its own.
module image_loader (
    input  logic         clk,
    input  logic         rst,
    input  logic         start,
    input  logic [511:0] descriptor,   // stays until `done`
    output logic         done,         // a cycle

    input  logic [39:0]  base,
    output logic         request,
    output logic [39:0]  request_address,
    output logic [4:0]   request_length,
    input  logic         grant,
    input  logic         data_valid,
    input  logic [127:0] data,
    output logic         ready,

    output logic         write,
    output logic [15:0]  write_bytes,
    output logic [15:0]  write_row,
    output logic [511:0] write_data
);
  logic fold, odd, running, preparing;
  logic [9:0] width_4;  // in groups of four pixels
  logic [11:0] height;
  logic [15:0] pixel_stride, line_stride;
  assign fold = descriptor[layout::LOAD_FOLD];
  assign width_4 = descriptor[layout::LOAD_WIDTH+2+:10];
  assign height = descriptor[layout::LOAD_HEIGHT+:12];
  assign pixel_stride = descriptor[layout::LOAD_TARGET_PIXEL_STRIDE+:16];
  assign line_stride = descriptor[layout::LOAD_TARGET_LINE_STRIDE+:16];

  // All groups of four pixels, 12 bytes each, and the beats of 16 bytes that hold them.
  logic [21:0] fours;
  logic [23:0] beats;
  logic [2:0] prepare;
  logic unused_busy;
  always_ff @(posedge clk) begin
    fours <= width_4 * height;
    beats <= 24'((24'(fours) * 24'd3 + 24'd3) >> 2);
  end
  regions image_regions (
      .clk,
      .rst,
      .start(prepare == 3'd4),
      .fresh(1'b1),
      .again(1'b0),
      .base,
      .offset(descriptor[layout::LOAD_SOURCE_OFFSET+:32]),
      .beats,
      .busy(unused_busy),
      .valid(request),
      .ready(grant),
      .address(request_address),
      .length(request_length)
  );
  always_ff @(posedge clk) begin
    if (rst) preparing <= 1'b0;
    else if (start) preparing <= 1'b1;
    else if (prepare == 3'd4) preparing <= 1'b0;
    prepare <= preparing && !rst ? prepare + 3'd1 : '0;
  end

  // The three beats, and what leaves next of them: each as soon as it is there.
  logic [383:0] three;
  logic [1:0] beat, part;
  logic leave, arrived;
  assign arrived = data_valid && (!fold || beat != 2'd0);
  // What leaves last of the three takes a cycle without a beat.
  assign ready = fold || !data_valid;
  always_ff @(posedge clk) begin
    if (data_valid) begin
      case (beat)
        2'd0: three[127:0] <= data ^ {16{8'h80}};
        2'd1: three[255:128] <= data ^ {16{8'h80}};
        default: three[383:256] <= data ^ {16{8'h80}};
      endcase
      beat <= beat == 2'd2 ? 2'd0 : beat + 2'd1;
    end
    if (start) beat <= 2'd0;
    part <= !data_valid ? 2'd3 : fold ? beat - 2'd1 : beat;
    leave <= running && !(leave && last) && (arrived || (!fold && leave && part == 2'd2));
  end

  // Where four pixels go.
  logic [15:0] line_row, row;
  logic [9:0] quad, quads;
  logic [11:0] line;
  logic last_quad, last_line, last;
  assign quads = fold ? width_4 >> 1 : width_4;
  assign last = last_quad && last_line;

  always_ff @(posedge clk) begin
    if (rst) begin
      running <= 1'b0;
      write <= 1'b0;
      done <= 1'b0;
    end else begin
      write <= leave;
      done <= leave && last;
      running <= start || (running && !(leave && last));
    end
  end

  always_ff @(posedge clk) begin
    if (start) begin
      odd <= 1'b0;
      quad <= quads;
      last_quad <= quads == 10'd1;
      line <= height;
      last_line <= height == 12'd1;
      line_row <= descriptor[layout::LOAD_TARGET_BASE+:16];
      row <= descriptor[layout::LOAD_TARGET_BASE+:16];
    end else if (leave) begin
      row <= row + pixel_stride;
      quad <= quad - 10'd1;
      last_quad <= quad == 10'd2;
      if (last_quad) begin
        quad <= quads;
        last_quad <= quads == 10'd1;
        line <= line - 12'd1;
        last_line <= line == 12'd2;
        odd <= !odd;
        // The second line of a fold goes where the first one went.
        if (!fold || odd) begin
          line_row <= line_row + line_stride;
          row <= line_row + line_stride;
        end else row <= line_row;
      end
    end
  end

  // A choice among slices: an index times their width would be a multiplication.
  logic [95:0] quarter;
  logic [191:0] half;
  always_comb begin
    case (part)
      2'd0: quarter = three[95:0];
      2'd1: quarter = three[191:96];
      2'd2: quarter = three[287:192];
      default: quarter = three[383:288];
    endcase
  end
  assign half = part[0] ? three[383:192] : three[191:0];

  integer i;
  always_ff @(posedge clk) begin
    write_row <= row;
    if (!fold) write_bytes <= 16'hFFFF;
    else write_bytes <= odd ? 16'hFFC0 : 16'h003F;
    for (i = 0; i < 4; i = i + 1) begin
      if (!fold) write_data[128*i+:128] <= {104'd0, quarter[24*i+:24]};
      else write_data[128*i+:128] <= {32'd0, {2{half[48*i+:48]}}};
    end
  end
endmodule
